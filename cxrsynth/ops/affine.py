"""Affine maps between two small images by Gauss-Newton, whole in C++ on one thread of a CPU."""

import numpy as np
import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.ops.extension import kernels
from cxrsynth.ops.warp import warp

SETTLED = 0.01  # largest change of the map, in half images, at which it is found: Demons does the rest
MIN_OVERLAP = 0.6  # share of the image below which a map is marked down; below half of that it is given up
DAMPING = 0.01  # share of J'J's diagonal that is added to it
FLAT = 1e-12  # variance as a share of the mean square at which an image is constant: what rounding leaves


def affine(moving: Tensor, fixed: Tensor, starts: Tensor, iterations: int) -> Tensor:
    """Refine maps p -> a [x, y, 1] in coordinates of [-1, 1], each by itself.

    Each step solves (J'J + D) da = J' d, with d the difference after `fixed` has been given the mean and spread of the
    warped image, J the warped image's derivative by a, and D DAMPING times J'J's diagonal; all over the pixels that
    fall inside.

    Args:
        moving: `[n, n]`, finite, float64 on the CPU, n from 2.
        fixed: As `moving`.
        starts: `[S, 2, 3]`, float64 on the CPU.
        iterations: At most; a map that settles or leaves the image stops by itself.

    Returns:
        `[S, 2, 3]`: of each start the map that correlated best on its way, the best one first.

    Raises:
        UserError: A shape, dtype or device does not fit.
    """
    _check(moving, fixed, starts)
    moving, fixed, maps = (
        moving.detach().contiguous(),
        fixed.detach().contiguous(),
        starts.detach().contiguous().clone(),
    )
    correlation = maps.new_empty(len(maps))
    kernels().affine(
        moving.data_ptr(), fixed.data_ptr(), len(fixed), maps.data_ptr(), correlation.data_ptr(), len(maps), iterations,
        SETTLED, MIN_OVERLAP, DAMPING, FLAT,
    )  # fmt: skip
    return maps[correlation.argsort(descending=True, stable=True)]


def _check(moving: Tensor, fixed: Tensor, starts: Tensor) -> None:
    n, square = moving.shape[-1] if moving.ndim else 0, moving.shape
    fits = len(square) == 2 and square[0] == n > 1 and fixed.shape == square and starts.shape[1:] == (2, 3)
    for tensor in (moving, fixed, starts):
        if not fits or tensor.dtype != torch.float64 or tensor.device.type != "cpu":
            shapes = ", ".join(f"{tuple(t.shape)} {t.dtype} {t.device}" for t in (moving, fixed, starts))
            raise UserError(
                f"affine: moving, fixed and starts are {shapes}; they must be [n, n], [n, n] with n from 2, and "
                "[S, 2, 3], all float64 on the CPU"
            )


def affine_reference(moving: Tensor, fixed: Tensor, starts: Tensor, iterations: int) -> Tensor:
    """The same as `affine` in NumPy, up to rounding."""
    n = len(fixed)
    y, x = ((2 * np.indices((n, n)) + 1) / n - 1).reshape(2, -1)
    images = torch.from_numpy(np.stack([moving.numpy(), *np.gradient(moving.numpy(), 2 / n)]))
    maps, best = starts.numpy().copy(), np.full(len(starts), -2.0)
    for s, start in enumerate(starts.numpy()):
        a = start.copy()
        for _ in range(iterations):
            to = a[:, :1] * x + a[:, 1:2] * y + a[:, 2:]
            inside = (np.abs(to) <= 1 - 1 / n).all(0)
            displacement = torch.from_numpy((to - np.stack([x, y])).reshape(1, 2, n, n) * n / 2)
            w, wy, wx = warp(images[None], displacement)[0].flatten(1).numpy()[:, inside]
            f = fixed.numpy().ravel()[inside]
            lost = inside.mean() < MIN_OVERLAP / 2
            if lost or any(image.var() <= FLAT * (image**2).mean() for image in (w, f)):
                break
            w, spread, f = w - w.mean(), w.std(), (f - f.mean()) / f.std()
            correlation = (w * f).mean() / spread * min(1, inside.mean() / MIN_OVERLAP)
            if correlation > best[s]:
                best[s], maps[s] = correlation, a
            j = np.stack([wx * x[inside], wx * y[inside], wx, wy * x[inside], wy * y[inside], wy])
            hessian = j @ j.T
            step = np.linalg.solve(hessian + np.diag(DAMPING * np.diag(hessian) + 1e-12), j @ (f * spread - w))
            a += step.reshape(2, 3)
            if np.abs(step).max() < SETTLED:
                break
    return torch.from_numpy(maps[np.argsort(-best, kind="stable")])
