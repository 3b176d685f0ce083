"""Classifier-free guidance, field by field, in one batched forward."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import FIELDS, Condition, check_fields
from cxrsynth.inpainting.flow_map import FlowMap
from cxrsynth.inpainting.recorded import Setting, as_it_is, recorded
from cxrsynth.inpainting.velocity import VelocityField

Baseline = Literal["unknown", "none"]
Weights = float | Mapping[str, float]
HEALTHY_GUIDANCE = 1.5  # most guidance of healthy tissue by default; more makes the region too dark (docs/design.md)


class Guided:
    """A velocity field under guidance, for one batch: `guided(x, t)` is what the solver follows.

    With one weight: `v(base) + w * (v(c) - v(base))` (Ho & Salimans 2022, arXiv 2207.12598, eq. 6). With a weight per
    field, the fields join one after another, in the order of `FIELDS`, each step exaggerated by its own weight (Brooks
    et al. 2022, arXiv 2211.09800, eq. 3): `v(base) + sum_k w_k * (v(fields up to k) - v(fields up to k-1))`. Terms that
    cancel are not computed: equal weights of all fields give the first formula, weight 1 the plain conditional field.

    Args:
        field: The velocity field, called once for all branches in one batch.
        region: `[B, 1, H, W]`.
        coordinates: `[B, 2, H, W]`.
        condition: What is asked.
        weight: w, or w by field (1 where not named); 1 = as learned, above 1 = exaggerated, 0 = the field ignored.
        baseline: The branch to move away from: `unknown` (nothing known) or `none` (every finding absent).
        interval: Times between which guidance acts; before and after it the weight is 1 (Kynkäänniemi et al. 2024,
            arXiv 2404.07724).
        rescale: How far the predicted image is brought back to the contrast that it has without guidance, in [0, 1]
            (Lin et al. 2023, arXiv 2305.08891, section 3.4; here about the mean, over the painted pixels).
        record: On a GPU, work from CUDA graphs (see `recorded`). Not for weights that change from batch to batch.

    Raises:
        UserError: Unknown baseline or field, a weight that is not finite, an interval or rescale out of range.
    """

    def __init__(
        self,
        field: VelocityField,
        region: Tensor,
        coordinates: Tensor,
        condition: Condition,
        *,
        weight: Weights = 1.0,
        baseline: Baseline = "unknown",
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
        record: bool = False,
    ):
        check_guidance(weight, baseline, interval, rescale)
        terms = branches(condition, weight, baseline)
        coefficients = tuple(coefficient for coefficient, _ in terms)
        self.field, self.interval = field, interval
        follow = recorded if record else as_it_is
        self.plain = follow(Combined(), field, Setting(region, coordinates, field.embed(condition)))
        self.guided = self.arrived = self.plain
        if len(terms) > 1:
            regions, places = (torch.cat([part] * len(terms)) for part in (region, coordinates))
            every = Setting(regions, places, field.embed(Condition.cat([asked for _, asked in terms])))
            self.guided = follow(Combined(coefficients, rescale), field, every)
            self.arrived = follow(Combined(coefficients), field, every)  # at t = 1 nothing is left to rescale

    def __call__(self, x: Tensor, t: float, until: float | None = None) -> Tensor:
        """Velocity `[B, 1, H, W]` at the state `x` `[B, 1, H, W]` and the time t in [0, 1].

        With `until`, the mean velocity from t to that time, which only a `FlowMap` knows.
        """
        low, high = self.interval
        ask = self.plain if not low <= t <= high else self.guided if t < 1 else self.arrived
        if until is None:
            return ask(x, t)
        if not isinstance(self.field, FlowMap):
            raise UserError("solver is 'jump', but this inpainter was not distilled for it; choose midpoint")
        return ask(x, t, until)


@dataclass(frozen=True)
class Combined:
    """Velocities of all branches, asked in one batch and summed (see `Ask`).

    Args:
        coefficients: Of the branches; the last is the whole condition.
        rescale: See `Guided`.
    """

    coefficients: tuple[float, ...] = (1.0,)
    rescale: float = 0.0

    def __call__(self, field: VelocityField, x: Tensor, times: Sequence[Tensor], setting: Setting) -> Tensor:
        """Velocity `[B, Z, H, W]`; the setting is that of B images for each branch."""
        count = len(self.coefficients)
        now, *until = (time.repeat(count) for time in times)
        parts = field(x.repeat(count, 1, 1, 1), now, setting.region, setting.coordinates, setting.told, *until)
        if count == 1:
            return parts
        each = parts.chunk(count)
        guided = sum((c * part for c, part in zip(self.coefficients, each, strict=True)), torch.zeros_like(x))
        if not self.rescale:
            return guided
        return self._rescaled(x, times[0].view(-1, 1, 1, 1), guided, each[-1], setting.region[: len(x)])

    def _rescaled(self, x: Tensor, t: Tensor, guided: Tensor, plain: Tensor, region: Tensor) -> Tensor:
        image = x + (1 - t) * guided
        mean, spread = _moments(image, region)
        ratio = _moments(x + (1 - t) * plain, region)[1] / spread
        factor = 1 + self.rescale * (ratio - 1)
        return region * ((mean + (image - mean) * factor - x) / (1 - t))


def branches(condition: Condition, weight: Weights, baseline: Baseline = "unknown") -> list[tuple[float, Condition]]:
    """The conditions to ask, each with the coefficient of its velocity; the last is the whole condition.

    The coefficients sum to 1. A field of which nothing is known in any image joins no branch.

    Args:
        condition: What is asked.
        weight: One weight, or one by field (1 where not named).
        baseline: See `Guided`.
    """
    weights = {name: float(weight.get(name, 1.0)) if isinstance(weight, Mapping) else float(weight) for name in FIELDS}
    told = FIELDS if baseline == "unknown" else ("findings", "text")  # the rest is as asked in the baseline too
    steps = [name for name in told if condition.known(name).any()]
    base = condition.as_unknown() if baseline == "unknown" else condition.as_none()
    # With S_0 the baseline and S_k what is known up to the field k: (1 - w_1) S_0 + sum_k (w_k - w_k+1) S_k + w_n S_n
    asked = [base, *(condition.without(steps[k:]) for k in range(1, len(steps) + 1))]
    each = [1.0, *(weights[name] for name in steps), 0.0]
    terms = [(here - after, what) for (here, after), what in zip(pairwise(each), asked, strict=True)]
    return [term for term in terms[:-1] if term[0] != 0] + terms[-1:]


def at_most(weight: Weights, limit: float) -> Weights:
    """The same weights, none above a limit."""
    if isinstance(weight, Mapping):
        return {name: min(value, limit) for name, value in weight.items()}
    return min(weight, limit)


def check_guidance(
    weight: Weights, baseline: str = "unknown", interval: tuple[float, float] = (0.0, 1.0), rescale: float = 0.0
) -> None:
    """Raises `UserError` unless these are settings of `Guided`."""
    if baseline not in get_args(Baseline):
        raise UserError(f"baseline is {baseline!r}; choose one of {', '.join(get_args(Baseline))}")
    if isinstance(weight, Mapping):
        check_fields(weight, "guidance")
    if not all(math.isfinite(w) for w in (weight.values() if isinstance(weight, Mapping) else [weight])):
        raise UserError(f"guidance is {weight}; give finite weights")
    if not 0 <= interval[0] < interval[1] <= 1:
        raise UserError(f"guidance_interval is {list(interval)}; give two times in [0, 1], the earlier one first")
    if not 0 <= rescale <= 1:
        raise UserError(f"rescale is {rescale}; give a share from 0 (none) to 1 (the whole contrast)")


def _moments(image: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the painted pixels of each image, `[B, 1, 1, 1]`."""
    count = region.expand_as(image).sum((1, 2, 3), keepdim=True).clamp_min(1)
    mean = (region * image).sum((1, 2, 3), keepdim=True) / count
    variance = (region * (image - mean).square()).sum((1, 2, 3), keepdim=True) / count
    return mean, variance.clamp_min(1e-8).sqrt()
