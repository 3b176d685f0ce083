"""Carries a map from the patient it was found in into another patient's anatomy."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.ops import warp
from cxrsynth.registration.align import match_histogram, moment_start
from cxrsynth.registration.field import smallest_jacobian
from cxrsynth.registration.register import register


@dataclass(frozen=True)
class TransportResult:
    """A map in another patient's anatomy.

    Attributes:
        map: `[B, 1, H, W]`, the exemplar's map warped into the source.
        displacement: `[B, 2, H, W]` in pixels: where in the exemplar each pixel of the source comes from.
        ncc: `[B]`, normalised cross-correlation of source and warped exemplar, -1 to 1.
        min_jacobian: `[B]`, smallest Jacobian determinant of the displacement; at or below 0 it folds.
    """

    map: Tensor
    displacement: Tensor
    ncc: Tensor
    min_jacobian: Tensor


def transport(
    map: Tensor,
    exemplar: Tensor,
    source: Tensor,
    *,
    iterations: tuple[int, ...] = (60, 40, 20),
    shrink: tuple[int, ...] = (8, 4, 2),
    sigma_diffusion: float = 2.0,
    sigma_fluid: float = 1.0,
) -> TransportResult:
    """Register exemplar -> source, and warp the exemplar's map with the same field.

    The two images show different patients: the exemplar's grey values are first matched to the source's quantiles, and
    the registration starts from the translation and scale of their intensity moments.

    Args:
        map: `[B, 1, H, W]`, in the exemplar's frame.
        exemplar: `[B, 1, H, W]`, the diseased image.
        source: `[B, 1, H, W]`, the healthy image.
        iterations: Of each level, coarse to fine.
        shrink: Of each level.
        sigma_diffusion: Smoothing of the field in pixels of the level.
        sigma_fluid: Smoothing of each update in pixels of the level.

    Returns:
        The map in the source's frame, with the field and its quality. Independent of batch and thread count.

    Raises:
        UserError: Shapes differ.
    """
    if map.shape != exemplar.shape or exemplar.shape != source.shape or map.ndim != 4 or map.shape[1] != 1:
        raise UserError(
            f"transport: map is {tuple(map.shape)}, exemplar {tuple(exemplar.shape)} and source {tuple(source.shape)}; "
            "all must be [B, 1, H, W] of one size"
        )
    matched = match_histogram(exemplar, source)
    found = register(
        matched,
        source,
        iterations=iterations,
        shrink=shrink,
        force="esm",
        update="diffeomorphic",
        sigma_diffusion=sigma_diffusion,
        sigma_fluid=sigma_fluid,
        initial_field=moment_start(matched, source),
    )
    u = found.displacement
    return TransportResult(warp(map, u), u, correlation(found.warped, source), smallest_jacobian(u))


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Normalised cross-correlation of each pair of images, `[B]`; 0 where one is constant."""
    values = []
    for first, second in zip(a, b, strict=True):
        x, y = (image.detach().cpu().double().numpy().ravel() for image in (first, second))
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known] - x[known].mean(), y[known] - y[known].mean()
        scale = np.sqrt((x * x).sum() * (y * y).sum())
        values.append(float((x * y).sum() / scale) if scale > 0 else 0.0)
    return torch.tensor(values, dtype=a.dtype, device=a.device)
