"""Paint a region of a chest X-ray under a condition."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.coupling import couple
from cxrsynth.inpainting.guidance import Baseline, guide
from cxrsynth.inpainting.solver import Solver, integrate
from cxrsynth.inpainting.unet import VelocityField
from cxrsynth.inpainting.window import windows_around


@torch.no_grad()
def inpaint(
    image: Tensor,
    region: Tensor,
    condition: Condition,
    *,
    velocity: VelocityField,
    size: int,
    seeds: Sequence[int],
    solver: Solver = "midpoint",
    steps: int = 10,
    warp: float = 2.0,
    guidance: float = 2.0,
    baseline: Baseline = "unknown",
    context: float = 0.25,
    minimum: float = 0.375,
) -> Tensor:
    """Paint what the condition says into the region, and touch nothing else.

    Args:
        image: float32 `[B, 1, H, W]` in [0, 1], any size.
        region: `[B, 1, H, W]` in {0, 1}; 1 = paint here. Where it is empty the image is returned as it is.
        condition: For B images.
        velocity: The trained velocity field.
        size: Working resolution it was trained at.
        seeds: One an image. Its noise is drawn from it on the CPU, so its place in the batch does not matter beyond
            floating-point rounding.
        solver: See `integrate`.
        steps: See `integrate`.
        warp: See `integrate`. At equal steps the painted part is too grainy (heun) or too smooth (euler).
        guidance: Weight of classifier-free guidance (see `guide`).
        baseline: See `guide`.
        context: See `windows_around`; as in training.
        minimum: See `windows_around`; as in training.

    Returns:
        float32 `[B, 1, H, W]` in [0, 1], equal to `image` bit for bit wherever `region` is 0.

    Raises:
        UserError: Shapes that do not fit together, or a region that is not binary.
    """
    _check(image, region, condition, seeds)
    if not region.any():
        return image.clone()
    windows = windows_around(region, context=context, minimum=minimum)
    painted = paint(
        windows.crop(image, size),
        windows.crop_region(region, size),
        windows.coordinates(size, image.device),
        condition.to(image.device),
        velocity=velocity,
        seeds=seeds,
        solver=solver,
        steps=steps,
        warp=warp,
        guidance=guidance,
        baseline=baseline,
    )
    return windows.paste(painted, image, region)


@torch.no_grad()
def paint(
    image: Tensor,
    region: Tensor,
    coordinates: Tensor,
    condition: Condition,
    *,
    velocity: VelocityField,
    seeds: Sequence[int],
    solver: Solver = "midpoint",
    steps: int = 10,
    warp: float = 2.0,
    guidance: float = 2.0,
    baseline: Baseline = "unknown",
) -> Tensor:
    """Paint windows at the working resolution: `inpaint` without cutting out and pasting back.

    Args:
        image: Windows `[B, 1, size, size]` in [0, 1].
        region: Their regions, in {0, 1}.
        coordinates: `[B, 2, size, size]` (see `Windows.coordinates`).
        condition: For B images.
        velocity: See `inpaint`; as are the others.
        seeds: See `inpaint`.
        solver: See `inpaint`.
        steps: See `inpaint`.
        warp: See `inpaint`.
        guidance: See `inpaint`.
        baseline: See `inpaint`.

    Returns:
        `[B, 1, size, size]` in [0, 1].
    """
    noise = torch.cat([_noise(seed, image.shape[-1]) for seed in seeds]).to(image.device)
    start = couple(2 * image - 1, region, noise)

    def guided(x: Tensor, t: float) -> Tensor:
        times = x.new_full((len(x),), t)
        return guide(velocity, x, times, region, coordinates, condition, weight=guidance, baseline=baseline)

    return (integrate(guided, start, solver=solver, steps=steps, warp=warp).clamp(-1, 1) + 1) / 2


def _noise(seed: int, size: int) -> Tensor:
    return torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(seed))


def _check(image: Tensor, region: Tensor, condition: Condition, seeds: Sequence[int]) -> None:
    if image.ndim != 4 or image.shape[1] != 1:
        raise UserError(f"image has shape {list(image.shape)}; give [B, 1, H, W]")
    if region.shape != image.shape:
        raise UserError(f"region has shape {list(region.shape)}, the image {list(image.shape)}; make them equal")
    if not ((region == 0) | (region == 1)).all():
        raise UserError("region holds values other than 0 and 1; threshold it first")
    if len(condition) != len(image) or len(seeds) != len(image):
        raise UserError(
            f"{len(image)} images came with {len(condition)} conditions and {len(seeds)} seeds; give one each"
        )
