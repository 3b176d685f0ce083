"""Values that change over the steps of a training."""

import math


def cosine(step: int, total: int, start: float, end: float, warmup: int = 0) -> float:
    """A line from 0 to `start` over the first `warmup` steps, then half a cosine to `end` at step `total`.

    Args:
        step: From 0.
        total: Steps of the whole training.
        start: Value after the warm-up.
        end: Value at the end and after it.
        warmup: Steps of the warm-up.
    """
    if step < warmup:
        return start * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def linear(step: int, total: int, start: float, end: float) -> float:
    """A line from `start` to `end` over `total` steps, then `end`."""
    return start + (end - start) * min(1.0, step / max(1, total))
