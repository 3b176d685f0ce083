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
class Alignment:
    """How one patient's anatomy is brought to another's, at the working size.

    Attributes:
        field: `[B, 2, h, w]`, displacement in pixels of the working size.
        ncc: `[B]`, normalised cross-correlation of the local contrast of source and warped exemplar, -1 to 1.
    """

    field: Tensor
    ncc: Tensor


@dataclass(frozen=True)
class TransportResult:
    """A map in another patient's anatomy.

    Attributes:
        map: `[B, C, H, W]`, the exemplar's map warped into the source.
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

    Args:
        map: `[B, C, H, W]`, in the exemplar's frame.
        exemplar: See `align_patients`, as are the others.
        source: As there.
        iterations: As there.
        shrink: As there.
        sigma_diffusion: As there.
        sigma_fluid: As there.

    Returns:
        The map in the source's frame, with the field and its quality. Independent of batch and thread count.

    Raises:
        UserError: Shapes differ.
    """
    alignment = align_patients(
        exemplar,
        source,
        iterations=iterations,
        shrink=shrink,
        sigma_diffusion=sigma_diffusion,
        sigma_fluid=sigma_fluid,
    )
    return carry(map, alignment)


def align_patients(
    exemplar: Tensor,
    source: Tensor,
    *,
    mask: Tensor | None = None,
    iterations: tuple[int, ...] = (60, 40, 20),
    shrink: tuple[int, ...] = (4, 2, 1),
    sigma_diffusion: float = 1.75,
    sigma_fluid: float = 1.75,
) -> Alignment:
    """Register two patients' images: exemplar -> source.

    They are compared by local contrast, brought to one framing by an affine map, and registered by diffeomorphic esm
    Demons on a working size of at most WORKING_SIZE pixels a side.

    Args:
        exemplar: `[B, 1, H, W]` in [0, 1], the diseased image.
        source: `[B, 1, H, W]` in [0, 1], the healthy image.
        mask: Optional `[B, 1, H, W]`: only where it is above 0 does the source pull (its chest, say).
        iterations: Of each level, coarse to fine.
        shrink: Of each level, from the working size.
        sigma_diffusion: Smoothing of the field in pixels of the level.
        sigma_fluid: Smoothing of each update in pixels of the level.

    Returns:
        The field and its quality. Independent of batch and thread count.

    Raises:
        UserError: Shapes differ.
    """
    if exemplar.shape != source.shape or source.ndim != 4 or source.shape[1] != 1:
        raise UserError(
            f"transport: exemplar is {tuple(exemplar.shape)} and source {tuple(source.shape)}; "
            "both must be [B, 1, H, W] of one size"
        )
    size = working_size(*source.shape[-2:])
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
        mask=None if mask is None else (_resize(mask.float(), size) > 0.5).to(fixed),
    )
    return Alignment(found.displacement, correlation(found.warped, fixed))


def carry(map: Tensor, alignment: Alignment) -> TransportResult:
    """Warp maps into the source's frame by a field that `align_patients` found.

    Args:
        map: `[B, C, H, W]`, in the exemplar's frame.
        alignment: Of the B pairs.

    Raises:
        UserError: The field is not that of B maps of this size.
    """
    field, size = alignment.field, map.shape[-2:]
    if map.ndim != 4 or len(field) != len(map) or field.shape[-2:] != working_size(*size):
        raise UserError(f"transport: map is {tuple(map.shape)}, the field {tuple(field.shape)}; they do not fit")
    scale = torch.tensor([size[1] / field.shape[-1], size[0] / field.shape[-2]], device=map.device).view(1, 2, 1, 1)
    u = _unfolded(_resize(field, (size[0], size[1])) * scale)
    return TransportResult(warp(map, u), u, alignment.ncc, smallest_jacobian(u))


def working_size(height: int, width: int) -> tuple[int, int]:
    """Size in pixels that images of this size are registered at."""
    scale = min(1.0, WORKING_SIZE / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


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
        if not known.all():
            x, y = x[known], y[known]
        x, y = x - x.mean(), y - y.mean()
        scale = np.sqrt((x * x).sum() * (y * y).sum())
        values.append(float((x * y).sum() / scale) if scale > 0 else 0.0)
    return torch.tensor(values, dtype=a.dtype, device=a.device)
