"""Where each finding lies on average: the region of a request that names no place."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 32  # pixels of an average map's side


class AverageMaps:
    """Running mean of the maps that a training draws, finding by finding; it travels with the checkpoint.

    A map is scaled to sum 1 before it is added, so that a small lesion counts as much as a large one.

    Args:
        findings: Number of findings, C.

    Attributes:
        total: Sum of the maps, float32 `[C, SIDE, SIDE]`, of the square that holds the image.
        count: Maps added, float32 `[C]`.
    """

    def __init__(self, findings: int):
        self.total = torch.zeros(findings, SIDE, SIDE)
        self.count = torch.zeros(findings)

    def add(self, maps: Tensor, finding: Tensor) -> None:
        """Add the maps of a batch.

        Args:
            maps: Non-negative, `[B, 1, H, W]`.
            finding: Whose maps they are, int64 `[B]`; -1 = nobody's.
        """
        self.total, self.count = self.total.to(maps.device), self.count.to(maps.device)
        small = F.adaptive_avg_pool2d(maps.float(), SIDE)[:, 0]
        mass = small.sum((1, 2))
        counts = ((finding >= 0) & (mass > 0)).float()  # no boolean indexing: that would wait for a GPU
        rows = finding.clamp_min(0)
        self.total.index_add_(0, rows, small * (counts / mass.clamp_min(1e-12))[:, None, None])
        self.count.index_add_(0, rows, counts)

    def of(self, finding: int) -> Tensor | None:
        """The average map of a finding, float32 `[SIDE, SIDE]` of sum 1; None where none was ever added."""
        count = float(self.count[finding])
        return self.total[finding].cpu() / count if count else None

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
        return {"total": self.total.cpu(), "count": self.count.cpu()}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        assert state["total"].shape == self.total.shape, "average maps of other findings"
        self.total, self.count = state["total"].clone(), state["count"].clone()
