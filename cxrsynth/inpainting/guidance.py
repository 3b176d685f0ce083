"""Classifier-free guidance, field by field, in one batched forward."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import FIELDS, Condition, check_fields
from cxrsynth.inpainting.embedder import Embedded
from cxrsynth.inpainting.flow_map import FlowMap
from cxrsynth.inpainting.recorded import recorded
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
    ):
        check_guidance(weight, baseline, interval, rescale)
        self.field, self.region, self.interval, self.rescale = field, region, interval, rescale
        self.forward = recorded(field)
        terms = branches(condition, weight, baseline)
        self.coefficients = [coefficient for coefficient, _ in terms]
        self.every = field.embed(Condition.cat([asked for _, asked in terms]))
        self.plain = field.embed(condition)
        self.regions, self.places = (torch.cat([part] * len(terms)) for part in (region, coordinates))
        self.coordinates = coordinates

    def __call__(self, x: Tensor, t: float, until: float | None = None) -> Tensor:
        """Velocity `[B, 1, H, W]` at the state `x` `[B, 1, H, W]` and the time t in [0, 1].

        With `until`, the mean velocity from t to that time, which only a `FlowMap` knows.
        """
        low, high = self.interval
        count = len(self.coefficients)
        if count == 1 or not low <= t <= high:
            return self._ask(x, t, until, self.region, self.coordinates, self.plain)
        parts = self._ask(torch.cat([x] * count), t, until, self.regions, self.places, self.every).chunk(count)
        guided = sum((c * part for c, part in zip(self.coefficients, parts, strict=True)), torch.zeros_like(x))
        return self._rescaled(x, t, guided, parts[-1]) if self.rescale else guided

    def _ask(
        self, x: Tensor, t: float, until: float | None, region: Tensor, coordinates: Tensor, told: Condition | Embedded
    ) -> Tensor:
        times = x.new_full((len(x),), t)
        if until is None:
            return self.forward(x, times, region, coordinates, told)
        if not isinstance(self.field, FlowMap):
            raise UserError("solver is 'jump', but this inpainter was not distilled for it; choose midpoint")
        return self.forward(x, times, region, coordinates, told, x.new_full((len(x),), until))

    def _rescaled(self, x: Tensor, t: float, guided: Tensor, plain: Tensor) -> Tensor:
        if t >= 1:
            return guided
        image = x + (1 - t) * guided
        mean, spread = _moments(image, self.region)
        ratio = _moments(x + (1 - t) * plain, self.region)[1] / spread
        factor = 1 + self.rescale * (ratio - 1)
        return self.region * ((mean + (image - mean) * factor - x) / (1 - t))


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
