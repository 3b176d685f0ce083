"""Which image, and which of its findings, is drawn next."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

HEALTHY = -1

Draw = tuple[int, int]  # row of the dataset; finding, or HEALTHY


class NaturalSampler(Sampler[Draw]):
    """Each image once an epoch, in an order that the seed and the epoch decide.

    The finding of a draw is one of those the image has, evenly, or HEALTHY.

    Args:
        has: Bool `[N, C]`, which image has which finding.
        seed: Seed.
        shuffle: Whether to shuffle; else the table's order.
        copies: Int `[N]`, how often an epoch shows each image; None = once.
    """

    def __init__(self, has: np.ndarray, seed: int = 0, shuffle: bool = True, copies: np.ndarray | None = None):
        self.has, self.seed, self.shuffle, self.epoch = has, seed, shuffle, 0
        self.rows = np.arange(len(has)) if copies is None else np.repeat(np.arange(len(has)), copies)

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.rows) if self.shuffle else self.rows
        for row in order:
            findings = np.flatnonzero(self.has[row])
            yield int(row), int(rng.choice(findings)) if len(findings) else HEALTHY


class BalancedSampler(Sampler[Draw]):
    """As many draws as images: a healthy image, or a finding drawn evenly and then an image that has it.

    Args:
        has: Bool `[N, C]`, which image has which finding.
        healthy: Bool `[N]`, which image is healthy.
        healthy_share: Probability of a healthy image (0 if there is none, 1 if no image has a finding).
        seed: Seed.
    """

    def __init__(self, has: np.ndarray, healthy: np.ndarray, healthy_share: float, seed: int = 0):
        self.rows = [np.flatnonzero(column) for column in has.T]
        self.drawable = [finding for finding, rows in enumerate(self.rows) if len(rows)]
        self.healthy = np.flatnonzero(healthy)
        self.share = 0.0 if not len(self.healthy) else healthy_share if self.drawable else 1.0
        self.length, self.seed, self.epoch = len(has), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for _ in range(self.length):
            if rng.random() < self.share:
                yield int(rng.choice(self.healthy)), HEALTHY
            else:
                finding = int(rng.choice(self.drawable))
                yield int(rng.choice(self.rows[finding])), finding
