"""Demons registration on a pyramid, whole in C++ or CUDA."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.ops.demons_reference import demons_reference
from cxrsynth.ops.extension import called_plainly, function, kernels, on_device_of, queue
from cxrsynth.ops.smoothing import MAX_SIGMA, smoothing_taps

__all__ = ["demons", "demons_reference"]

FORCES = ("two_force", "esm", "thirion")
UPDATES = ("additive", "diffeomorphic")
KERNELS = ("gaussian", "itk", "box")


def demons(
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
    """Register by Demons, coarse to fine. `cxrsynth.registration.register` says what each argument means.

    Args:
        moving: `[B, 1, H, W]`, float32 or float64.
        fixed: As `moving`.
        iterations: Of each level, coarse to fine.
        shrink: Of each level: it has ceil(H / shrink) rows.
        force: "two_force", "esm" or "thirion".
        alpha: K = 1 / alpha^2.
        max_step: K = max_step^2, if given.
        sigma_diffusion: Smoothing of the field in pixels of the level.
        sigma_fluid: Smoothing of the update in pixels of the level.
        update: "additive" or "diffeomorphic".
        kernel: "gaussian", "itk" or "box".
        mask: `[B, 1, H, W]`, 1 = pixels that move the field.
        initial_field: `[B, 2, H, W]` in pixels.
        tol: A level stops after the iteration whose RMS update is below it.

    Returns:
        The displacement `[B, 2, H, W]`, and of each iteration the mean squared difference before it and its RMS update
        in pixels of the level, both `[B, sum(iterations)]`, NaN where a level stopped early.

    Raises:
        UserError: An argument does not fit.
    """
    _check_images(moving, fixed, mask, initial_field)
    if force not in FORCES or update not in UPDATES or kernel not in KERNELS:
        raise UserError(
            f"demons: force={force!r}, update={update!r}, kernel={kernel!r}; use force {'|'.join(FORCES)}, "
            f"update {'|'.join(UPDATES)}, kernel {'|'.join(KERNELS)}"
        )
    if len(iterations) != len(shrink) or not shrink or min(shrink) < 1 or min(iterations) < 0:
        raise UserError(
            f"demons: iterations={tuple(iterations)} and shrink={tuple(shrink)}; give one number a level in both, "
            "iterations from 0 and shrink from 1"
        )
    step = 1 / alpha if max_step is None and alpha > 0 else max_step
    if step is None or not (step > 0 and math.isfinite(step)):
        raise UserError(f"demons: alpha={alpha}, max_step={max_step}; both must be positive numbers")
    for name, sigma in (("sigma_diffusion", sigma_diffusion), ("sigma_fluid", sigma_fluid)):
        if not 0 <= sigma <= MAX_SIGMA:
            raise UserError(f"demons: {name} is {sigma}; it must be from 0 to {MAX_SIGMA} pixels")
    run = _run if called_plainly(moving, fixed, initial_field, mask) else _demons
    return run(
        moving.contiguous(), fixed.contiguous(),
        None if initial_field is None else initial_field.to(moving.dtype).contiguous(),
        None if mask is None else mask.to(moving.dtype).contiguous(),
        list(iterations), list(shrink), force, update, kernel,
        float(sigma_diffusion), float(sigma_fluid), float(step), -1.0 if tol is None else float(tol),
    )  # fmt: skip


def _check_images(moving: Tensor, fixed: Tensor, mask: Tensor | None, initial_field: Tensor | None) -> None:
    if moving.ndim != 4 or moving.shape[1] != 1 or moving.shape != fixed.shape:
        raise UserError(
            f"demons: moving is {tuple(moving.shape)} and fixed {tuple(fixed.shape)}; both must be "
            "[B, 1, H, W] of one size"
        )
    if moving.dtype not in (torch.float32, torch.float64) or fixed.dtype != moving.dtype:
        raise UserError(f"demons: dtypes are {moving.dtype} and {fixed.dtype}; both must be float32, or both float64")
    expected = {"fixed": (fixed, moving.shape), "mask": (mask, moving.shape)}
    expected["initial_field"] = (initial_field, torch.Size((moving.shape[0], 2, *moving.shape[2:])))
    for name, (tensor, shape) in expected.items():
        if tensor is not None and (tensor.shape != shape or tensor.device != moving.device):
            raise UserError(
                f"demons: {name} is {tuple(tensor.shape)} on {tensor.device}; it must be "
                f"{tuple(shape)} on {moving.device}"
            )


def _run(
    moving: Tensor,
    fixed: Tensor,
    initial_field: Tensor | None,
    mask: Tensor | None,
    iterations: Sequence[int],
    shrink: Sequence[int],
    force: str,
    update: str,
    kernel: str,
    sigma_diffusion: float,
    sigma_fluid: float,
    step: float,
    tol: float,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, height, width = moving.shape
    options = kernels().DemonsOptions()
    options.iterations, options.shrink = list(iterations), list(shrink)
    options.force, options.itk = FORCES.index(force), kernel == "itk"
    options.diffeomorphic, options.squarings = update == "diffeomorphic", squarings(step)
    options.diffusion, options.fluid = (smoothing_taps(sigma, kernel) for sigma in (sigma_diffusion, sigma_fluid))
    options.inverse_k, options.tolerance = 1 / step**2, tol

    moving, fixed = moving.contiguous(), fixed.contiguous()
    initial_field, mask = (None if t is None else t.contiguous() for t in (initial_field, mask))
    displacement = moving.new_empty(batch, 2, height, width)
    mse, rms = (moving.new_empty(batch, sum(iterations)) for _ in range(2))
    if moving.numel():
        on_device, where = queue(moving)
        size = function("demons_workspace", moving.dtype)(batch, height, width) if on_device else 0
        workspace = torch.empty(size, dtype=torch.uint8, device=moving.device)
        tensors = (moving, fixed, initial_field, mask, displacement, mse, rms)
        pointers = (0 if t is None else t.data_ptr() for t in tensors)
        with on_device_of(moving):
            function("demons", moving.dtype)(
                options, *pointers, batch, height, width, on_device, workspace.data_ptr(), where
            )
    return displacement, mse, rms


_demons = torch.library.custom_op("cxrsynth::demons", _run, mutates_args=())


@_demons.register_fake
def _(
    moving,
    fixed,
    initial_field,
    mask,
    iterations,
    shrink,
    force,
    update,
    kernel,
    sigma_diffusion,
    sigma_fluid,
    step,
    tol,
):  # type: ignore[no-untyped-def]
    batch, _, height, width = moving.shape
    return moving.new_empty(batch, 2, height, width), *(moving.new_empty(batch, sum(iterations)) for _ in range(2))


def squarings(step: float) -> int:
    """How often exp(du) squares: N = max(0, ceil(2 + log2(step))), as ITK's diffeomorphic Demons."""
    return max(0, math.ceil(2 + math.log2(step)))
