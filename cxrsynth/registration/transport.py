"""Carries a map from the patient it was found in into another patient's anatomy."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.ops import warp
from cxrsynth.registration.align import affine_start, local_contrast
from cxrsynth.registration.field import smallest_jacobian
from cxrsynth.registration.register import register

WORKING_SIZE = 192  # pixels of the longer side that anatomy is matched on


@dataclass(frozen=True)
class TransportResult:
    """A map in another patient's anatomy.

    Attributes:
        map: `[B, 1, H, W]`, the exemplar's map warped into the source.
        displacement: `[B, 2, H, W]` in pixels: where in the exemplar each pixel of the source comes from.
        ncc: `[B]`, normalised cross-correlation of the local contrast of source and warped exemplar, -1 to 1.
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
    shrink: tuple[int, ...] = (4, 2, 1),
    sigma_diffusion: float = 1.75,
    sigma_fluid: float = 1.75,
) -> TransportResult:
    """Register exemplar -> source, and warp the exemplar's map with the same field.

    The two images show different patients: they are compared by local contrast, brought to one framing by an affine
    map, and registered by diffeomorphic esm Demons on a working size, from which the field is enlarged.

    Args:
        map: `[B, 1, H, W]`, in the exemplar's frame.
        exemplar: `[B, 1, H, W]` in [0, 1], the diseased image.
        source: `[B, 1, H, W]` in [0, 1], the healthy image.
        iterations: Of each level, coarse to fine.
        shrink: Of each level, from the working size of at most WORKING_SIZE pixels a side.
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
    height, width = source.shape[-2:]
    scale = min(1.0, WORKING_SIZE / max(height, width))
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    moving, fixed = (local_contrast(_resize(image.float(), size)) for image in (exemplar, source))
    found = register(
        moving,
        fixed,
        iterations=iterations,
        shrink=shrink,
        force="esm",
        update="diffeomorphic",
        sigma_diffusion=sigma_diffusion,
        sigma_fluid=sigma_fluid,
        initial_field=affine_start(moving, fixed),
    )
    pixels = torch.tensor([width / size[1], height / size[0]], device=source.device).view(1, 2, 1, 1)
    u = _unfolded(_resize(found.displacement, (height, width)) * pixels)
    return TransportResult(warp(map, u), u, correlation(found.warped, fixed), smallest_jacobian(u))


def _unfolded(displacement: Tensor) -> Tensor:
    """Smooths the fields that fold until they no longer do; diffeomorphic steps rarely leave any."""
    for i, smallest in enumerate(smallest_jacobian(displacement).tolist()):
        sigma = 1.0
        while smallest <= 0:
            smoothed = ndimage.gaussian_filter(
                displacement[i].cpu().double().numpy(), (0, sigma, sigma), mode="nearest"
            )
            displacement[i] = torch.from_numpy(smoothed).to(displacement)
            smallest = smallest_jacobian(displacement[i : i + 1]).item()
            sigma *= 1.5
    return displacement


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[-2:] == size:
        return images
    # One by one, so that no kernel's choice of order can depend on the batch.
    return torch.cat([F.interpolate(image[None], size, mode="bilinear", antialias=True) for image in images])


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
