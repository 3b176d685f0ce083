"""Demons in pure PyTorch: what csrc computes, line by line, for reading and for tests."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrsynth.ops.smoothing import smoothing_taps
from cxrsynth.ops.warp import warp_reference


def demons_reference(
    moving: Tensor,
    fixed: Tensor,
    *,
    iterations: Sequence[int] = (30, 20, 5),
    shrink: Sequence[int] = (4, 2, 1),
    force: str = "two_force",
    alpha: float = 1.0,
    max_step: float | None = None,
    sigma_diffusion: float = 2.0,
    sigma_fluid: float = 0.0,
    update: str = "additive",
    kernel: str = "gaussian",
    mask: Tensor | None = None,
    initial_field: Tensor | None = None,
    tol: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `demons`; arguments and results as there."""
    height, width = moving.shape[-2:]
    itk, step = kernel == "itk", max_step or 1 / alpha
    diffusion, fluid = smoothing_taps(sigma_diffusion, kernel), smoothing_taps(sigma_fluid, kernel)
    smooths_before = itk and force == "thirion"
    u = torch.zeros_like(moving).repeat(1, 2, 1, 1) if initial_field is None else initial_field
    mse, rms = (moving.new_full((moving.shape[0], sum(iterations)), math.nan) for _ in range(2))
    first = 0
    for count, factor in zip(iterations, shrink, strict=True):
        size = -(-height // factor), -(-width // factor)
        u, small_moving, small_fixed = resize_field(u, size), resize(moving, size), resize(fixed, size)
        small_mask = torch.ones_like(small_fixed) if mask is None else (resize(mask, size) > 0.5).to(u)
        running = torch.ones(u.shape[0], dtype=torch.bool, device=u.device)
        for i in range(first, first + count):
            new = smooth(u, diffusion) if smooths_before else u
            du, difference, counted = demons_update(small_moving, small_fixed, new, force, step, itk)
            du, counted = du * small_mask, counted * small_mask
            pixels = counted.sum((1, 2, 3)).clamp(min=1)
            mse[running, i] = ((difference**2 * counted).sum((1, 2, 3)) / pixels)[running]
            rms[running, i] = ((du**2).sum((1, 2, 3)) / pixels).sqrt()[running]
            du = smooth(du, fluid)
            new = compose(new, exponential(du, step)) if update == "diffeomorphic" else new + du
            new = new if smooths_before else smooth(new, diffusion)
            u = torch.where(running[:, None, None, None], new, u)
            running = running & ~(rms[:, i] < (-1 if tol is None else tol))
        first += count
    return resize_field(u, (height, width)), mse, rms


def demons_update(
    moving: Tensor, fixed: Tensor, u: Tensor, force: str, step: float, itk: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The update of one iteration, the difference d = R - W, and where d counts (inside, not NaN)."""
    warped = warp_reference(moving, u)
    if itk:
        warped = warped.where(inside(u), math.nan)
        r, w = itk_fixed_gradient(fixed), itk_warped_gradient(warped)
    else:
        r, w = gradient(fixed), gradient(warped)
    d = fixed - warped
    energy = d**2 / step**2
    if force == "two_force":  # Wang et al. 2005
        du = d * (r / ((r**2).sum(1, True) + energy) + w / ((w**2).sum(1, True) + energy))
    elif force == "esm":  # Vercauteren et al. 2009
        du = 2 * d * (r + w) / (((r + w) ** 2).sum(1, True) + energy)
    else:  # Thirion 1998
        du = d * r / ((r**2).sum(1, True) + energy)
    counted = d.isfinite()
    moves = counted & (d.abs() >= 0.001) if itk else counted
    du = torch.where(moves & du.isfinite().all(1, keepdim=True), du, 0)
    return du, torch.where(counted, d, 0), counted.to(d)


def gradient(image: Tensor) -> Tensor:
    """Central differences `[B, 2, H, W]` (x, y) with the border repeated."""
    p = F.pad(image, (1, 1, 1, 1), mode="replicate")
    return 0.5 * torch.cat([p[..., 1:-1, 2:] - p[..., 1:-1, :-2], p[..., 2:, 1:-1] - p[..., :-2, 1:-1]], dim=1)


def itk_fixed_gradient(image: Tensor) -> Tensor:
    """Central differences, 0 on the border."""
    g = gradient(image)
    g[:, 0, :, [0, -1]] = 0
    g[:, 1, [0, -1], :] = 0
    return g


def itk_warped_gradient(image: Tensor) -> Tensor:
    """Central differences, one-sided beside the border and beside NaN (samples outside), 0 between two of these."""
    p = F.pad(image, (1, 1, 1, 1), value=math.nan)
    here = image
    pairs = [(p[..., 1:-1, :-2], p[..., 1:-1, 2:]), (p[..., :-2, 1:-1], p[..., 2:, 1:-1])]
    sides = []
    for before, after in pairs:
        difference = torch.where(after.isnan(), here, after) - torch.where(before.isnan(), here, before)
        sides.append(torch.where(after.isnan() | before.isnan(), 1.0, 0.5) * difference)
    return torch.cat(sides, dim=1)


def inside(u: Tensor) -> Tensor:
    """Where p + u(p) lies in [-0.5, N - 0.5) in both directions: `[B, 1, H, W]`."""
    height, width = u.shape[-2:]
    x = torch.arange(width, device=u.device) + u[:, :1]
    y = torch.arange(height, device=u.device)[:, None] + u[:, 1:]
    return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)


def smooth(field: Tensor, taps: Sequence[float]) -> Tensor:
    """Separable smoothing with the border repeated."""
    if not taps:
        return field
    r = len(taps) - 1
    weights = torch.tensor([*taps[:0:-1], *taps], dtype=field.dtype, device=field.device)
    planes = F.pad(field.flatten(0, 1)[:, None], (r, r, r, r), mode="replicate")
    return F.conv2d(F.conv2d(planes, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1)).view_as(field)


def exponential(du: Tensor, step: float) -> Tensor:
    """exp(du) by scaling and squaring: v = du / 2^N, then N times v <- v + v o (Id + v)."""
    n = max(0, math.ceil(2 + math.log2(step)))
    v = du / 2**n
    for _ in range(n):
        v = compose(v, v)
    return v


def compose(u: Tensor, v: Tensor) -> Tensor:
    """The field v + u o (Id + v)."""
    return v + warp_reference(u, v)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize."""
    return image if image.shape[-2:] == size else F.interpolate(image, size, mode="bilinear", antialias=True)


def resize_field(u: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a displacement and scale its values to the new pixels."""
    scale = u.new_tensor([size[1] / u.shape[-1], size[0] / u.shape[-2]]).view(1, 2, 1, 1)
    return resize(u, size) * scale
