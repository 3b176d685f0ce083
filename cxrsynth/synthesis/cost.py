"""What a plan will cost, from the time and the bytes of its first group."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import write_png
from cxrsynth.errors import UserError
from cxrsynth.synthesis.group import read_group
from cxrsynth.synthesis.task import Made, SynthesisTask

# forwards of a step; dopri5's are adaptive
EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "dopri5": 7, "jump": 1}


@dataclass(frozen=True)
class Cost:
    """Of a whole plan, on this machine and one process.

    Attributes:
        images: Rows of the plan.
        forwards: Forwards of the velocity field for a group of rows.
        forward_seconds: One of them.
        other_seconds: Reading, attention maps, registration and pasting of a group.
        seconds: In all.
        bytes: On disk.
    """

    images: int
    forwards: int
    forward_seconds: float
    other_seconds: float
    seconds: float
    bytes: int


def estimate_cost(
    plan: pd.DataFrame,
    manifest: Manifest,
    attention: str,
    inpainting: str,
    solver: str = "midpoint",
    steps: int = 10,
    guidance: float = 2.0,
) -> Cost:
    """Paint the plan's first group with a single step, twice, and reckon from the second time.

    Args:
        plan: The plan.
        manifest: Its archive.
        attention: Checkpoint of the GLoRI task.
        inpainting: Checkpoint of the inpainting task.
        solver: As it will be painted with, like the next two.
        steps: As there.
        guidance: As there.

    Raises:
        UserError: A checkpoint or the group's images cannot be read, or an unknown solver.
    """
    if solver not in EVALUATIONS:
        raise UserError(f"solver is {solver!r}; choose one of {', '.join(EVALUATIONS)}")
    task = SynthesisTask(
        attention, inpainting, solver=solver, steps=1, guidance=guidance, min_ncc=-1.0, smallest=0.0, largest=1.0
    ).eval()  # nothing is refused
    task.load()
    rows = [{str(name): value for name, value in row.items()} for row in _first_group(plan).to_dict("records")]
    task.group_size = len(rows)
    for _ in range(2):
        task.clock.seconds.clear()
        with task.clock("all"):
            made = task.predict_step(task.prepare([read_group(rows, manifest, task.image_size)]), 0)
    images = [item for item in made if isinstance(item, Made)]
    if not images:
        raise UserError(f"none of the first {len(rows)} images of the plan can be read; check the archive")
    sampling, whole = task.clock.seconds["sampling"], task.clock.seconds["all"]
    forward, other = sampling / EVALUATIONS[solver], whole - sampling
    forwards, groups = steps * EVALUATIONS[solver], plan["group"].nunique()
    size = sum(map(_bytes, images)) / len(images)
    seconds = groups * (forwards * forward + other)
    return Cost(len(plan), forwards, forward, other, seconds, round(size * len(plan)))


def describe(cost: Cost) -> str:
    """One line for the console."""
    spent = f"{cost.seconds / 3600:.1f} h" if cost.seconds > 5400 else f"{cost.seconds / 60:.1f} min"
    work = f"{cost.forwards} forwards of {cost.forward_seconds:.3f} s and {cost.other_seconds:.2f} s of other work"
    size = f"{cost.bytes / 2**20:.0f} MiB on disk"
    return f"about {spent} in one process here ({cost.images} images; {work} a group) and {size}"


def _first_group(plan: pd.DataFrame) -> pd.DataFrame:
    return plan[plan["group"] == plan["group"].min()]


def _bytes(made: Made) -> int:
    with tempfile.TemporaryDirectory() as folder:
        made.image.save_png(Path(folder) / "image.png")
        write_png(Path(folder) / "map.png", made.map)
        write_png(Path(folder) / "region.png", made.region.astype("uint8") * 255)
        return sum(path.stat().st_size for path in Path(folder).iterdir())
