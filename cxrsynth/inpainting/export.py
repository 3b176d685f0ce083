"""`cxrsynth export`: an inpainter as one small file."""

import inspect
from pathlib import Path

from cxrsynth.errors import UserError
from cxrsynth.inpainting.task import InpaintingTask, load_inpainter
from cxrsynth.inpainting.weights_file import SPACE, SUFFIX, WeightsFile, write_weights_file


def export(checkpoint: str, out: str) -> str:
    """Write an inpainter's averaged weights in bfloat16, with all that painting needs, as safetensors.

    Args:
        checkpoint: An inpainting.ckpt.
        out: The file to write, .safetensors.

    Returns:
        One sentence about what was written.

    Raises:
        UserError: A checkpoint that cannot be read, or another suffix.
    """
    if Path(out).suffix != SUFFIX:
        raise UserError(f"out is {out}; its name must end in {SUFFIX}")
    task = load_inpainter(checkpoint)
    path = write_weights_file(out, weights_of(task))
    return f"{out}: {path.stat().st_size / 1e6:.2f} MB, findings {', '.join(task.hparams['findings'])}"


def weights_of(task: InpaintingTask) -> WeightsFile:
    """What a file of this inpainter holds."""
    known = inspect.signature(InpaintingTask).parameters
    settings = {name: value for name, value in task.hparams.items() if name in known}
    return WeightsFile(
        settings={**settings, "start": None},
        state={
            **task.average.module.state_dict(),
            **{SPACE + name: value for name, value in task.space.state_dict().items()},
        },
        average_maps=task.average_maps.state(),
        vocabulary=None if task.teller.vocabulary is None else task.teller.vocabulary.to_json(),
        patients=task.patients,
    )
