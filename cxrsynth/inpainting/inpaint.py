"""Paint a region of a chest X-ray under a condition."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.coupling import couple
from cxrsynth.inpainting.guidance import Baseline, Guided, Weights
from cxrsynth.inpainting.path import straight_path
from cxrsynth.inpainting.solver import Solver, integrate
from cxrsynth.inpainting.space import Pixels, Space
from cxrsynth.inpainting.velocity import VelocityField
from cxrsynth.inpainting.window import windows_around

# What a lesion looks like is decided in the middle of the path: with it, every finding shows at a quarter of strength.
GRADE = 1.5


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
    guidance: Weights = 2.0,
    baseline: Baseline = "unknown",
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    strength: float = 1.0,
    space: Space | None = None,
    context: float = 0.25,
    minimum: float = 0.375,
    feather: int = 0,
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
        guidance: Weight of classifier-free guidance, or one by field of the condition (see `Guided`).
        baseline: See `Guided`.
        guidance_interval: See `Guided`.
        rescale: See `Guided`.
        strength: How far the region may leave the source, in [0, 1]: painting starts from the source mixed with noise
            at t = (1 - strength)^1.5 (Meng et al. 2021, arXiv 2108.01073; `GRADE`). 1 = the source's region is not
            looked at, 0 = it stays as it is; in between a finding appears in part.
        space: Where the velocity field lives (see `Space`); None = pixels.
        context: See `windows_around`; as in training.
        minimum: See `windows_around`; as in training.
        feather: Width in pixels of the image over which the change fades in, inside the region (see `Windows.paste`).

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
        guidance_interval=guidance_interval,
        rescale=rescale,
        strength=strength,
        space=space,
    )
    return windows.paste(painted, image, region, feather)


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
    guidance: Weights = 2.0,
    baseline: Baseline = "unknown",
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    strength: float = 1.0,
    space: Space | None = None,
    record: bool = True,
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
        guidance_interval: See `inpaint`.
        rescale: See `inpaint`.
        strength: See `inpaint`.
        space: See `inpaint`.
        record: See `Guided`.

    Returns:
        `[B, 1, size, size]` in [0, 1].
    """
    if not 0 <= strength <= 1:
        raise UserError(f"strength is {strength}; give a share from 0 (the source) to 1 (painted from nothing)")
    space = space or Pixels()
    scene = space.enter(2 * image - 1, region, coordinates)
    source = scene.state
    noise = torch.stack([_noise(seed, source.shape[1:]) for seed in seeds]).to(image.device)
    begin = (1.0 - strength) ** GRADE
    start = straight_path(couple(source, scene.region, noise), source, source.new_full((len(source),), begin)).x
    guided = Guided(
        velocity,
        scene.region,
        scene.coordinates,
        condition,
        weight=guidance,
        baseline=baseline,
        interval=guidance_interval,
        rescale=rescale,
        record=record,
    )
    end = integrate(guided, start, solver=solver, steps=steps, warp=warp, start=begin)
    return (space.leave(end, scene) + 1) / 2


def _noise(seed: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
