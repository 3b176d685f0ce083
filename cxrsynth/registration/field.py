"""Algebra of displacement fields `[B, 2, H, W]` (pixels, channel 0 = x, 1 = y) and their other spellings."""

import numpy as np
import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.ops import warp
from cxrsynth.ops.extension import called_plainly, function


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """How much the map p -> p + u(p) stretches area: det(I + grad u), `[B, H, W]`.

    Central differences, one-sided on the border. At or below 0 the field folds.
    """
    dy, dx = torch.gradient(displacement, dim=(2, 3))
    return (1 + dx[:, 0]) * (1 + dy[:, 1]) - dy[:, 0] * dx[:, 1]


def smallest_jacobian(displacement: Tensor) -> Tensor:
    """The smallest of `jacobian_determinant` of each item; NaN where there is one.

    Args:
        displacement: `[B, 2, H, W]`.

    Returns:
        `[B]`.

    Raises:
        UserError: It has another shape.
    """
    if displacement.ndim != 4 or displacement.shape[1] != 2:
        raise UserError(f"smallest_jacobian: displacement is {tuple(displacement.shape)}; it must be [B, 2, H, W]")
    here = displacement.device.type == "cpu" and displacement.dtype in (torch.float32, torch.float64)
    if not here or min(displacement.shape[2:]) < 2 or not called_plainly(displacement):
        return jacobian_determinant(displacement).flatten(1).amin(1)
    batch, _, height, width = displacement.shape
    displacement, smallest = displacement.contiguous(), displacement.new_empty(batch)
    run = function("smallest_jacobian", displacement.dtype)
    run(displacement.data_ptr(), smallest.data_ptr(), batch, height, width, torch.get_num_threads())
    return smallest


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The field w with p + w(p) = q + first(q), q = p + second(p): warping by `first`, then the result by `second`."""
    return second + warp(first, second)


def exponential(velocity: Tensor, squarings: int = 8) -> Tensor:
    """The flow along a stationary velocity after time 1, by scaling and squaring (Arsigny et al. 2006).

    Args:
        velocity: `[B, 2, H, W]` in pixels.
        squarings: N of the first step v / 2^N, which is then composed with itself N times.

    Returns:
        `[B, 2, H, W]`; exponential(-velocity) is its inverse.
    """
    displacement = velocity / 2**squarings
    for _ in range(squarings):
        displacement = compose(displacement, displacement)
    return displacement


def invert(displacement: Tensor, iterations: int = 30) -> Tensor:
    """The field v with v(p) = -u(p + v(p)), by fixed-point iteration (Chen et al. 2008, eq. 4).

    Args:
        displacement: `[B, 2, H, W]`; it must not fold, and stretch by less than a factor of two to converge.
        iterations: Of the fixed point.

    Returns:
        `[B, 2, H, W]`.
    """
    inverse = -displacement
    for _ in range(iterations):
        inverse = -warp(displacement, inverse)
    return inverse


def to_grid_sample(displacement: Tensor, align_corners: bool = False) -> Tensor:
    """The grid `[B, H, W, 2]` with which `torch.nn.functional.grid_sample` (padding_mode="border") warps alike."""
    height, width = displacement.shape[-2:]
    x = torch.arange(width, dtype=displacement.dtype, device=displacement.device) + displacement[:, 0]
    y = torch.arange(height, dtype=displacement.dtype, device=displacement.device)[:, None] + displacement[:, 1]
    if align_corners:
        return torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    return torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)


def from_grid_sample(grid: Tensor, align_corners: bool = False) -> Tensor:
    """The inverse of `to_grid_sample`."""
    height, width = grid.shape[1:3]
    if align_corners:
        x, y = (grid[..., 0] + 1) / 2 * (width - 1), (grid[..., 1] + 1) / 2 * (height - 1)
    else:
        x, y = ((grid[..., 0] + 1) * width - 1) / 2, ((grid[..., 1] + 1) * height - 1) / 2
    columns = torch.arange(width, dtype=grid.dtype, device=grid.device)
    rows = torch.arange(height, dtype=grid.dtype, device=grid.device)[:, None]
    return torch.stack([x - columns, y - rows], dim=1)


def to_rows_first(displacement: Tensor) -> Tensor:
    """The (dy, dx) order of scikit-image, SciPy and VoxelMorph."""
    return displacement.flip(1)


def from_rows_first(displacement: Tensor) -> Tensor:
    """The inverse of `to_rows_first`."""
    return displacement.flip(1)


def to_itk(displacement: Tensor, spacing: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """One field as ITK stores it.

    Args:
        displacement: `[2, H, W]` or `[1, 2, H, W]`.
        spacing: Millimetres between columns (x) and between rows (y); the axes of the image are those of space.

    Returns:
        float64 `[H, W, 2]` in millimetres, for `SimpleITK.GetImageFromArray(..., isVector=True)` with that spacing set.
    """
    field = displacement.reshape(2, *displacement.shape[-2:]).detach().cpu().double().numpy()
    return np.moveaxis(field, 0, -1) * np.asarray(spacing, dtype=np.float64)


def from_itk(field: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """The inverse of `to_itk`: float64 `[1, 2, H, W]` in pixels."""
    pixels = np.moveaxis(np.asarray(field, dtype=np.float64) / np.asarray(spacing, dtype=np.float64), -1, 0)
    return torch.from_numpy(np.ascontiguousarray(pixels))[None]
