"""How the output of a network becomes a velocity: our own networks', and those of published diffusion models.

A published network knows `x' = a x1 + b z` at a step of its noise schedule, with `a^2 + b^2 = 1`. The state of our
flow, `x = t x1 + (1 - t) z`, is the same up to a factor: with `n = sqrt(t^2 + (1 - t)^2)`, `x' = x / n`, `a = t / n`
and `b = (1 - t) / n`. So the network is asked at the step where its `a / b` is `t / (1 - t)`, and its answer says what
the velocity `x1 - z` is:

- `v = a z - b x1` (Salimans & Ho 2022, arXiv 2202.00512): `x1 - z = (2t - 1) / n^2 x - v / n`;
- `epsilon = z`: `x1 - z = (x - epsilon) / t`;
- `velocity` (rectified flow, MONAI's RFlowScheduler): `x1 - z` itself, with the time counted from the image.

This is exact where the schedule reaches. Schedules end before the image is all noise, and `epsilon` says nothing of the
image there: below the last step's t, the network is asked at the last step and 1 / t no longer grows. What was learned
for whole images without a region holds as it is; region and condition are new to the network, so it is a start to learn
from, not yet an inpainter.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor, nn

from cxrsynth.errors import UserError
from cxrsynth.inpainting.velocity import preconditioning

CLOCK = 1000.0  # what a network is told at t = 1, unless its settings say otherwise: MONAI's count
PREDICTIONS = ("velocity", "v", "epsilon")
SCHEDULES = ("linear_beta", "scaled_linear_beta", "sigmoid_beta", "cosine")


@dataclass(frozen=True)
class Terms:
    """`v(x, t) = skip * x + scale * network(factor * x, time)`; all `[B]`.

    Attributes:
        time: What the network is told.
        factor: Of its input; None = 1.
        skip: Of the state.
        scale: Of its output.
    """

    time: Tensor
    factor: Tensor | None
    skip: Tensor
    scale: Tensor

    def velocity(self, x: Tensor, out: Tensor) -> Tensor:
        """`v(x, t)` from the state and the network's output, both `[B, Z, H, W]`."""
        return self.skip.view(-1, 1, 1, 1) * x + self.scale.view(-1, 1, 1, 1) * out


class Parametrisation(Protocol):
    """Gives the terms at times t in [0, 1], `[B]`."""

    def __call__(self, t: Tensor) -> Terms:
        """See `Terms`."""


class Preconditioned(nn.Module):
    """Of our own networks: what is known from the state alone need not be learned (see `preconditioning`).

    Args:
        spread: Standard deviation of the state.
        clock: What the network is told at t = 1. The fastest wave of the time embedding has a period of
            `2 pi / clock`, and within it the velocity can be rough, whatever the solver's order: MONAI's networks
            count to 1000, which suits the steps of a diffusion; 20 lets a solver of high order keep its order.
    """

    def __init__(self, spread: float, clock: float = CLOCK):
        super().__init__()
        self.spread, self.clock = spread, clock

    def forward(self, t: Tensor) -> Terms:
        """See `Parametrisation`."""
        skip, scale = preconditioning(t, self.spread)
        return Terms(self.clock * t, None, skip, scale)


class RectifiedFlow(nn.Module):
    """Of networks trained with MONAI's RFlowScheduler of `timesteps` steps."""

    def __init__(self, timesteps: int = 1000):
        super().__init__()
        self.timesteps = timesteps

    def forward(self, t: Tensor) -> Terms:
        """See `Parametrisation`."""
        return Terms(self.timesteps * (1 - t), None, torch.zeros_like(t), torch.ones_like(t))


class Diffusion(nn.Module):
    """Of networks trained as diffusion models.

    Args:
        prediction: `v` or `epsilon`.
        schedule: Of the noise, as MONAI's DDPMScheduler names it.
        beta_start: Its first beta (not for `cosine`).
        beta_end: Its last.
        timesteps: Its number of steps.
    """

    levels: Tensor

    def __init__(
        self, prediction: str, schedule: str, beta_start: float | None, beta_end: float | None, timesteps: int = 1000
    ):
        super().__init__()
        betas: dict[str, Any] = {} if schedule == "cosine" else {"beta_start": beta_start, "beta_end": beta_end}
        kept = DDPMScheduler(timesteps, schedule, **betas).alphas_cumprod.double()
        self.prediction = prediction
        # log(a / b) of the steps, last step first, so that it rises
        self.register_buffer("levels", ((kept / (1 - kept)).log() / 2).flip(0).float(), persistent=False)
        self.least = float(self.levels[0].sigmoid())  # t of the last step

    def forward(self, t: Tensor) -> Terms:
        """See `Parametrisation`."""
        norm = (t.square() + (1 - t).square()).sqrt()
        if self.prediction == "v":
            return Terms(self.step(t), 1 / norm, (2 * t - 1) / norm.square(), -1 / norm)
        gain = 1 / t.clamp_min(self.least)
        return Terms(self.step(t), 1 / norm, gain, -gain)

    def step(self, t: Tensor) -> Tensor:
        """The step whose `a / b` is `t / (1 - t)`, between two of them in proportion to the logarithm."""
        level = t.logit()
        above = torch.searchsorted(self.levels, level).clamp(1, len(self.levels) - 1)
        low, high = self.levels[above - 1], self.levels[above]
        share = ((level - low) / (high - low)).clamp(0, 1)
        return len(self.levels) - 1 - (above - 1 + share)


def published(
    prediction: str,
    schedule: str | None = None,
    beta_start: float | None = None,
    beta_end: float | None = None,
    timesteps: int = 1000,
) -> RectifiedFlow | Diffusion:
    """The parametrisation of a published network.

    Raises:
        UserError: An unknown prediction, or a diffusion model whose schedule is not said.
    """
    if prediction not in PREDICTIONS:
        raise UserError(
            f"prediction is {prediction!r}; a network that predicts {', '.join(PREDICTIONS)} can be adapted"
        )
    if timesteps < 2:
        raise UserError(f"timesteps is {timesteps}; give the number of steps that the network was trained with")
    if prediction == "velocity":
        return RectifiedFlow(timesteps)
    if schedule not in SCHEDULES:
        raise UserError(
            f"schedule is {schedule!r}; no file says how its network was noised, so give the one of its card, out of "
            f"{', '.join(SCHEDULES)}"
        )
    if schedule != "cosine" and not (beta_start and beta_end and 0 < beta_start < beta_end < 1):
        raise UserError(f"beta_start is {beta_start} and beta_end {beta_end}; give those of the network's card")
    return Diffusion(prediction, schedule, beta_start, beta_end, timesteps)
