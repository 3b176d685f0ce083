"""What a few-step student learns from: the states that its guided teacher passes on the way from noise to image."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.coupling import couple
from cxrsynth.inpainting.examples import Examples
from cxrsynth.inpainting.flow_map import FlowMap
from cxrsynth.inpainting.guidance import Guided, Weights
from cxrsynth.inpainting.path import straight_path
from cxrsynth.inpainting.solver import Solver, follow
from cxrsynth.inpainting.velocity import VelocityField


@dataclass(frozen=True)
class Trajectories:
    """B trajectories, each seen at the `n + 1` times of the student's finest grid.

    Attributes:
        states: x at these times, `[B, n + 1, S, S]`.
        times: `[B, n + 1]`, from the start of the painting to 1.
        first: Index from which on the states are the teacher's, int64 `[B]`.
        region: `[B, 1, S, S]` in {0, 1}.
        coordinates: `[B, 2, S, S]`.
        condition: What was asked.
    """

    states: Tensor
    times: Tensor
    first: Tensor
    region: Tensor
    coordinates: Tensor
    condition: Condition

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: Any) -> "Trajectories":
        return Trajectories(**{part.name: getattr(self, part.name)[rows] for part in fields(self)})

    @staticmethod
    def cat(parts: list["Trajectories"]) -> "Trajectories":
        """One after another."""
        joined: dict[str, Any] = {
            part.name: torch.cat([getattr(each, part.name) for each in parts])
            for part in fields(Trajectories)
            if part.name != "condition"
        }
        return Trajectories(**joined, condition=Condition.cat([each.condition for each in parts]))


@dataclass(frozen=True)
class Jumps:
    """Pieces of trajectories: from the state `x` at `t` to the time `until`, at the mean velocity `target`.

    Shapes: `x`, `target` and `region` `[B, 1, S, S]`, `t`, `until` and `weight` `[B]`, `coordinates` `[B, 2, S, S]`.
    `weight` is the time between, in parts of that of an equal step: a wrong velocity moves the end by as much.
    """

    x: Tensor
    target: Tensor
    t: Tensor
    until: Tensor
    weight: Tensor
    region: Tensor
    coordinates: Tensor
    condition: Condition


@torch.no_grad()
def teach(
    teacher: VelocityField,
    examples: Examples,
    condition: Condition,
    *,
    guidance: Weights,
    steps: int,
    fine: int,
    solver: Solver,
    warp: float,
    start: float,
    generator: torch.Generator,
    student: FlowMap | None = None,
    led: int = 0,
) -> Trajectories:
    """Follow the guided teacher from noise to images.

    Args:
        teacher: The trained velocity field.
        examples: Windows, regions and places; the pictures of their regions matter only where `start` is above 0.
        condition: What is asked.
        guidance: Weight of the teacher's guidance (see `Guided`).
        steps: n, steps of the student's finest grid.
        fine: Steps of the teacher in each of them.
        solver: Of the teacher.
        warp: Of both grids (see `integrate`); they share the times of the student's.
        start: Time at which painting starts (see `strength` of `inpaint`).
        generator: Source of the noise, on the CPU.
        student: Takes the first `led` steps itself, so that the teacher shows what to do from where the student gets to
            (Ross et al. 2011, arXiv 1011.0686).
        led: At most `steps - 1`.
    """
    image, region = examples.image, examples.region
    noise = torch.randn(image.shape, generator=generator).to(image.device)
    states = [straight_path(couple(image, region, noise), image, image.new_full((len(image),), start)).x]
    times = [start]
    if student is not None and led:
        alone = Guided(student, region, examples.coordinates, condition)
        path = follow(alone, states[0], solver="jump", steps=steps, warp=warp, start=start)
        for time, state in islice(path, led):
            states.append(state)
            times.append(time)
    guided = Guided(teacher, region, examples.coordinates, condition, weight=guidance, record=True)
    rest = 1 - led / steps  # the grid from step `led` on is the grid of what is left, with as many steps as are left
    begin = 1 - (1 - start) * rest**warp
    left = (steps - led) * fine
    path = follow(guided, states[-1], solver=solver, steps=left, warp=warp, start=begin)
    for time, state in islice(path, fine - 1, None, fine):
        states.append(state)
        times.append(time)
    return Trajectories(
        states=torch.cat(states, 1),
        times=image.new_tensor(times).expand(len(image), -1),
        first=torch.full((len(image),), led, device=image.device),
        region=region,
        coordinates=examples.coordinates,
        condition=condition,
    )


def draw_jumps(trajectories: Trajectories, lengths: Mapping[int, float], generator: torch.Generator) -> Jumps:
    """One jump from each trajectory.

    Args:
        trajectories: B of them.
        lengths: Probability of each length in steps of the finest grid; a length divides the number of steps.
        generator: Source of the draws, on the CPU.
    """
    count, steps = len(trajectories), trajectories.times.shape[1] - 1
    device = trajectories.states.device
    drawn = torch.tensor(list(lengths))[
        torch.multinomial(torch.tensor([float(p) for p in lengths.values()]), count, True, generator=generator)
    ]
    first = trajectories.first.cpu()
    drawn = torch.where(first % drawn == 0, drawn, 1)  # where the teacher's part starts between two of its points
    drawn = torch.where(first + drawn <= steps, drawn, 1)
    choices = (steps - first) // drawn
    begin = first + drawn * (torch.rand(count, generator=generator) * choices).long()
    rows, begin, end = torch.arange(count, device=device), begin.to(device), (begin + drawn).to(device)
    t, until = trajectories.times[rows, begin], trajectories.times[rows, end]
    x = trajectories.states[rows, begin][:, None]
    target = (trajectories.states[rows, end][:, None] - x) / (until - t).view(-1, 1, 1, 1)
    weight = (until - t) * steps / drawn.to(device)
    return Jumps(x, target, t, until, weight, trajectories.region, trajectories.coordinates, trajectories.condition)


class Pool:
    """The latest trajectories, each used several times; the oldest make room.

    Args:
        capacity: Most trajectories to keep.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.kept: Trajectories | None = None

    def add(self, fresh: Trajectories) -> None:
        """Take trajectories in."""
        kept = fresh if self.kept is None else Trajectories.cat([self.kept, fresh])
        self.kept = kept[slice(-self.capacity, None)]

    def __len__(self) -> int:
        return 0 if self.kept is None else len(self.kept)

    def draw(self, count: int, generator: torch.Generator) -> Trajectories:
        """Any of the kept ones, with replacement."""
        assert self.kept is not None, "nothing was added yet"
        return self.kept[torch.randint(len(self.kept), (count,), generator=generator)]


def wishes(condition: Condition, others: Condition, share: float, generator: torch.Generator) -> Condition:
    """Replace what some images show by what a user may ask: one finding, or none, all others absent.

    A synthetic image is asked of a healthy source, which training batches of real images never are. Half of these
    wishes are what the image shows itself, in the region that has its shape, and half say nothing of view, sex and age;
    none has a text, which may say otherwise.

    Args:
        condition: Of B images.
        others: Their conditions where no wish is drawn.
        share: Of the images that get a wish.
        generator: Source of the draws, on the CPU.
    """
    batch, findings = condition.findings.shape
    chosen, own, short = torch.rand(3, batch, generator=generator)
    drawn = torch.nn.functional.one_hot(torch.randint(findings + 1, (batch,), generator=generator), findings + 1)
    shown, drawn = (condition.findings == 1).float(), drawn[:, :findings].to(condition.findings)
    asked = torch.where((own < 0.5).to(drawn.device)[:, None], shown, drawn)
    brief = replace(condition.without(["text", "view", "sex", "age"]), findings=asked)
    whole = replace(condition.without(["text"]), findings=asked)
    return brief.where(short < 0.5, whole).where(chosen < share, others)


def starts(strongest: float, share: float, generator: torch.Generator) -> float:
    """Time at which a trajectory starts: 0, or in a share of draws anywhere up to `strongest` (graded severity)."""
    chance, place = torch.rand(2, generator=generator).tolist()
    return strongest * place if chance < share else 0.0
