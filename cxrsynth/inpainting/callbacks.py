"""Pictures of what an inpainter paints while it learns."""

import io
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.files import write_bytes
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.task import InpaintingTask


class SampleGrid(Callback):
    """After each validation, writes `samples/step_<step>.png` beside the logs.

    One row an image of the first validation batch: the source, its region, and the region painted as healthy and with
    each finding, by the averaged weights at the working resolution.

    Args:
        images: Number of rows.
        findings: Most findings to show.
        steps: Of the solver; None = the inpainter's own, which a few-step student was taught.
    """

    def __init__(self, images: int = 4, findings: int = 6, steps: int | None = None):
        self.images, self.findings, self.steps = images, findings, steps

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Paint the first batch."""
        assert isinstance(pl_module, InpaintingTask), "SampleGrid is for inpainting"
        if batch_idx or not trainer.is_global_zero or trainer.sanity_checking:
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "samples"
        buffer = io.BytesIO()
        picture = (self.grid(pl_module, batch) * 255).round().byte().cpu().numpy()
        Image.fromarray(picture).save(buffer, format="PNG")
        write_bytes(folder / f"step_{trainer.global_step:06d}.png", buffer.getvalue())

    @torch.no_grad()
    def grid(self, task: InpaintingTask, batch: Any) -> Tensor:
        """The picture, float32 `[H, W]` in [0, 1]; a white gap of 2 pixels follows each tile."""
        drawn = task.draw(batch, torch.Generator().manual_seed(0))
        count = min(self.images, len(drawn.image))
        region, where = drawn.region[:count], drawn.coordinates[:count]
        source = (drawn.image[:count] + 1) / 2
        names = list(task.hparams["findings"])[: self.findings]
        steps = task.hparams["steps"] if self.steps is None else self.steps
        tiles = [source, region]
        for shown in ([], *([name] for name in names)):
            asked = Condition.from_names([shown] * count, task.hparams["findings"]).to(source.device)
            # not recorded: the weights change with each step, and the memory is the training's
            painted = task.paint(source, region, where, asked, seeds=range(count), steps=steps, record=False)
            tiles.append(painted.where(region > 0, source))
        rows = torch.cat([F.pad(tile, (0, 2, 0, 2), value=1.0) for tile in tiles], 3)
        return torch.cat(list(rows[:, 0]), 0)
