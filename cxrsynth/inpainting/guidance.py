"""Classifier-free guidance in one batched forward."""

from typing import Literal, get_args

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.unet import VelocityField

Baseline = Literal["unknown", "none"]


def guide(
    field: VelocityField,
    x: Tensor,
    t: Tensor,
    region: Tensor,
    coordinates: Tensor,
    condition: Condition,
    *,
    weight: float,
    baseline: Baseline = "unknown",
) -> Tensor:
    """Velocity `v(base) + w * (v(c) - v(base))` (Ho & Salimans 2022, arXiv 2207.12598, eq. 6).

    Args:
        field: The velocity field, called once with both branches in one batch; called plainly when `weight` is 1.
        x: State, `[B, 1, H, W]`.
        t: Times, `[B]`.
        region: `[B, 1, H, W]`.
        coordinates: `[B, 2, H, W]`.
        condition: What is asked.
        weight: w; 1 = the condition as learned, above 1 = exaggerated, 0 = the baseline alone.
        baseline: The branch to move away from: `unknown` (nothing known) or `none` (every finding absent).

    Returns:
        Velocity, `[B, 1, H, W]`.

    Raises:
        UserError: Unknown baseline.
    """
    if baseline not in get_args(Baseline):
        raise UserError(f"baseline is {baseline!r}; choose one of {', '.join(get_args(Baseline))}")
    if weight == 1:
        return field(x, t, region, coordinates, condition)
    base = condition.as_unknown() if baseline == "unknown" else condition.as_none()
    both = [torch.cat([part, part]) for part in (x, t, region, coordinates)]
    without, asked = field(both[0], both[1], both[2], both[3], Condition.cat([base, condition])).chunk(2)
    return without + weight * (asked - without)
