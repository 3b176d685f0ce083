"""Registration of two batches of images: Demons with its trace and quality."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cxrsynth.errors import UserError
from cxrsynth.ops import demons, warp
from cxrsynth.registration.field import smallest_jacobian

ACCURATE: dict[str, Any] = {
    "shrink": (8, 4, 2, 1),
    "iterations": (12, 25, 12, 5),
    "force": "two_force",
    "alpha": 0.8,
    "kernel": "box",
    "sigma_diffusion": 3.2,
    "margin": 3,
}
"""Options for `register(moving, fixed, **ACCURATE)`: as exact on smooth fields as SimpleITK's well-tuned pyramid."""

QUICK: dict[str, Any] = ACCURATE | {"shrink": (8, 4, 2), "iterations": (10, 15, 3)}
"""Options for a fast estimate that never visits the full resolution: more exact than OpenCV's DIS, without folds."""


@dataclass(frozen=True)
class RegistrationResult:
    """What a registration found.

    Attributes:
        displacement: `[B, 2, H, W]` in pixels, channel 0 = x, 1 = y; warp(moving, displacement) looks like fixed.
        warped: `[B, 1, H, W]`, the moving image warped.
        mse: `[B, N]`, mean squared difference before each of the N iterations of all levels, NaN where a level stopped.
        rms_update: `[B, N]`, root mean square update of each iteration in pixels of its level.
        min_jacobian: `[B]`, smallest Jacobian determinant; at or below 0 the field folds.
    """

    displacement: Tensor
    warped: Tensor
    mse: Tensor
    rms_update: Tensor
    min_jacobian: Tensor


def register(
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
    margin: int = 0,
    initial_field: Tensor | None = None,
    tol: float | None = None,
) -> RegistrationResult:
    """Find the displacement that makes `moving` look like `fixed`.

    Results depend neither on the number of threads nor on the batch an image is in.

    Args:
        moving: `[B, 1, H, W]`, float32 or float64.
        fixed: Of the same shape and dtype.
        iterations: Of each level, coarse to fine.
        shrink: Of each level: its images have ceil(H / shrink) rows and are antialiased.
        force: "two_force", the active form with both gradients (Wang et al. 2005); "esm", their mean (Vercauteren et
            al. 2009, ITK's FastSymmetricForces); "thirion", the fixed image's gradient (Thirion 1998, ITK's Demons).
        alpha: Normalisation of the force: K = 1 / alpha^2. Larger = smaller steps.
        max_step: If given, K = max_step^2: the longest step of esm in pixels.
        sigma_diffusion: Gaussian that smooths the field after each iteration, in pixels of the level; 0 = none.
        sigma_fluid: Gaussian that smooths each update; 0 = none.
        update: "additive" (u + du) or "diffeomorphic" (u composed with exp(du)).
        kernel: "gaussian" (cut at 2.5 sigma, borders repeated) or "itk" (ITK's kernel, gradients, borders and order of
            smoothing, to compare with SimpleITK) or "box" (a running mean of the same reach with the fewest weights:
            repeated every iteration, it smooths as a Gaussian does).
        mask: `[B, 1, H, W]` in 0/1: only these pixels of `fixed` pull, and only these count in `mse` and `rms_update`.
        margin: Width in pixels of a frame of `fixed` that does not pull either: what belongs there may have left the
            moving image, whose border then pulls falsely.
        initial_field: `[B, 2, H, W]` in pixels to start from.
        tol: A level stops for an image after the iteration whose RMS update is below `tol` pixels.

    Returns:
        The displacement, the warped image and the trace.

    Raises:
        UserError: Shapes or dtypes differ, or an option is unknown or out of range.
    """
    displacement, mse, rms = demons(
        moving,
        fixed,
        iterations=iterations,
        shrink=shrink,
        force=force,
        alpha=alpha,
        max_step=max_step,
        sigma_diffusion=sigma_diffusion,
        sigma_fluid=sigma_fluid,
        update=update,
        kernel=kernel,
        mask=_without_frame(fixed, mask, margin),
        initial_field=initial_field,
        tol=tol,
    )
    return RegistrationResult(displacement, warp(moving, displacement), mse, rms, smallest_jacobian(displacement))


def _without_frame(fixed: Tensor, mask: Tensor | None, margin: int) -> Tensor | None:
    """`mask` with a frame of `margin` pixels set to 0."""
    if margin == 0:
        return mask
    height, width = fixed.shape[-2:]
    if not 0 < 2 * margin < min(height, width):
        raise UserError(f"register: margin is {margin}; it must be from 0 to less than half of {min(height, width)}")
    inner = (..., slice(margin, height - margin), slice(margin, width - margin))
    framed = torch.zeros_like(fixed)
    framed[inner] = 1 if mask is None else mask[inner].to(fixed)
    return framed


class Registration(nn.Module):
    """`register` with its options fixed, as a module without parameters.

    Args:
        iterations: As in `register`, like all that follow.
        shrink: As there.
        force: As there.
        alpha: As there.
        max_step: As there.
        sigma_diffusion: As there.
        sigma_fluid: As there.
        update: As there.
        kernel: As there.
        margin: As there.
        tol: As there.
    """

    def __init__(
        self,
        iterations: Sequence[int] = (30, 20, 5),
        shrink: Sequence[int] = (4, 2, 1),
        force: str = "two_force",
        alpha: float = 1.0,
        max_step: float | None = None,
        sigma_diffusion: float = 2.0,
        sigma_fluid: float = 0.0,
        update: str = "additive",
        kernel: str = "gaussian",
        margin: int = 0,
        tol: float | None = None,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "iterations": tuple(iterations),
            "shrink": tuple(shrink),
            "force": force,
            "alpha": alpha,
            "max_step": max_step,
            "sigma_diffusion": sigma_diffusion,
            "sigma_fluid": sigma_fluid,
            "update": update,
            "kernel": kernel,
            "margin": margin,
            "tol": tol,
        }

    def forward(
        self, moving: Tensor, fixed: Tensor, mask: Tensor | None = None, initial_field: Tensor | None = None
    ) -> RegistrationResult:
        """Register `moving` to `fixed`, both `[B, 1, H, W]`; see `register`."""
        return register(moving, fixed, mask=mask, initial_field=initial_field, **self.options)
