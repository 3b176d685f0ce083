"""Where each finding lies on average, and how large it is: the region of a request that names no place."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 32  # pixels of an average map's side
NAMES = ("total", "count", "areas", "sized")


class AverageMaps:
    """Running mean of the maps that a training draws, finding by finding; it travels with the checkpoint.

    A map is scaled to sum 1 before it is added, so that a small lesion counts as much as a large one.

    Args:
        findings: Number of findings, C.

    Attributes:
        total: Sum of the maps, float32 `[C, SIDE, SIDE]`, of the square that holds the image.
        count: Maps added, float32 `[C]`.
        areas: Sum of the areas of `sized` maps, as shares of the image, float32 `[C]`.
        sized: Maps whose area was taken, float32 `[C]`: not all in checkpoints of before areas were.
    """

    def __init__(self, findings: int):
        self.total = torch.zeros(findings, SIDE, SIDE)
        self.count = torch.zeros(findings)
        self.areas, self.sized = torch.zeros(findings), torch.zeros(findings)

    def add(self, maps: Tensor, finding: Tensor) -> None:
        """Add the maps of a batch.

        Args:
            maps: Non-negative, `[B, 1, H, W]`.
            finding: Whose maps they are, int64 `[B]`; -1 = nobody's.
        """
        for name in NAMES:
            setattr(self, name, getattr(self, name).to(maps.device))
        whole = maps.float().flatten(1)
        # (sum m)^2 / sum m^2 pixels: of a mask its very area
        area = whole.sum(1).square() / whole.square().sum(1).clamp_min(1e-12) / whole.shape[1]
        small = F.adaptive_avg_pool2d(maps.float(), SIDE)[:, 0]
        mass = small.sum((1, 2))
        counts = ((finding >= 0) & (mass > 0)).float()  # no boolean indexing: that would wait for a GPU
        rows = finding.clamp_min(0)
        self.total.index_add_(0, rows, small * (counts / mass.clamp_min(1e-12))[:, None, None])
        self.count.index_add_(0, rows, counts)
        self.areas.index_add_(0, rows, area * counts)
        self.sized.index_add_(0, rows, counts)

    def of(self, finding: int) -> Tensor | None:
        """The average map of a finding, float32 `[SIDE, SIDE]` of sum 1; None where none was ever added."""
        count = float(self.count[finding])
        return self.total[finding].cpu() / count if count else None

    def area(self, finding: int) -> float | None:
        """Mean area of a finding's maps, as a share of the image; None where it was never taken."""
        sized = float(self.sized[finding])
        return float(self.areas[finding]) / sized if sized else None

    def of_batch(self, finding: Tensor) -> Tensor:
        """The average maps of a batch's findings, float32 `[B, 1, SIDE, SIDE]`; 0 where none is known.

        Args:
            finding: int64 `[B]`; -1 = none.
        """
        rows = finding.clamp_min(0)
        means = self.total.to(finding.device)[rows] / self.count.to(finding.device)[rows, None, None].clamp_min(1)
        return (means * (finding >= 0)[:, None, None])[:, None]

    def state(self) -> dict[str, Tensor]:
        """Plain tensors for a checkpoint."""
        return {name: getattr(self, name).cpu() for name in NAMES}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        assert state["total"].shape == self.total.shape, "average maps of other findings"
        for name in NAMES:
            setattr(self, name, state[name].clone() if name in state else torch.zeros_like(state["count"]))


def usual_place(average: Tensor, area: float, generator: torch.Generator) -> Tensor:
    """One lesion of usual size where a finding may lie: the brightest of the average map near a place drawn from it.

    Args:
        average: Non-negative, `[n, n]`, not all 0.
        area: Of a lesion, as a share of the image, above 0.
        generator: Source of the place, on the CPU.

    Returns:
        `[n, n]` in {0, 1}, of `area * n^2` pixels, or of all that are not 0 in `average` where these are fewer.
    """
    side, size = average.shape[-1], max(1, round(area * average.numel()))
    drawn = int(torch.multinomial(average.flatten(), 1, generator=generator))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    distance = (row - drawn // side).square() + (column - drawn % side).square()
    # 70 % of a Gaussian of variance s^2 lie in a disc of pi * 2 ln(1 / 0.3) s^2 pixels
    near = average * torch.exp(-distance / (2 * size / (2 * math.pi * math.log(1 / 0.3))))
    kept = near.flatten().argsort(descending=True, stable=True)[:size]
    place = torch.zeros(average.numel()).index_fill_(0, kept, 1.0).view_as(average)
    return place * (average > 0)
