"""The straight path from x0 to x1, its velocity, and the loss that teaches it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PathSample:
    """A point on the path and the velocity there, both `[B, Z, H, W]`, Z = 1 for pixels."""

    x: Tensor
    target: Tensor


def straight_path(x0: Tensor, x1: Tensor, t: Tensor) -> PathSample:
    """`x_t = (1 - t) * x0 + t * x1` and its velocity `x1 - x0` (Lipman et al. 2022, arXiv 2210.02747, eq. 22-23).

    Args:
        x0: Start of the path (t = 0), `[B, Z, H, W]`.
        x1: End of the path (t = 1), `[B, Z, H, W]`.
        t: Times in [0, 1], `[B]`.
    """
    time = t.view(-1, 1, 1, 1)
    return PathSample((1 - time) * x0 + time * x1, x1 - x0)


def flow_loss(
    velocity: Tensor, target: Tensor, region: Tensor, balance: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """Mean of `|r * (v - (x1 - x0))|^2` over the painted numbers of the batch, a scalar.

    Args:
        velocity: Predicted velocity, `[B, Z, H, W]`.
        target: True velocity, `[B, Z, H, W]`.
        region: r in {0, 1}, `[B, 1, H, W]`. An empty region gives 0.
        balance: A painted pixel counts as its region's area to the power of -balance: 0 = every pixel alike, so that
            whole images outweigh lesions many times over; 1 = every image alike.
        weight: Of each image besides, `[B]`; None = 1.
    """
    area = region.sum((1, 2, 3), keepdim=True).clamp_min(1)
    share = region * area**-balance
    error = share * (velocity - target).square()
    if weight is not None:
        error = error * weight.view(-1, 1, 1, 1)
    return error.sum() / share.expand_as(target).sum().clamp_min(1e-12)
