"""Multi-crop views and patch masks, drawn per image from its own seed.

The draw depends on the image, the seed and the step alone, so batch size and number of processes change nothing.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from kornia.enhance import adjust_brightness, adjust_contrast
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CropPlan:
    """What DINOv2 calls the augmentation, less the flip and the colours that X-rays lack.

    Attributes:
        global_size: Side of the two global crops in pixels.
        local_size: Side of the local crops in pixels.
        local_crops: How many local crops.
        global_scale: Range of a global crop's share of the image's area.
        local_scale: The same of a local crop.
        jitter: Largest relative change of contrast and largest change of brightness.
        flip: Probability of a left-right flip. A chest has a left and a right, so 0 unless asked.
    """

    global_size: int = 224
    local_size: int = 96
    local_crops: int = 8
    global_scale: tuple[float, float] = (0.32, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.32)
    jitter: float = 0.2
    flip: float = 0.0


def image_generator(seed: int, step: int, image_id: str) -> np.random.Generator:
    """The source of all random choices for one image at one step."""
    return np.random.default_rng([seed, step, zlib.crc32(image_id.encode())])


def multi_crop(image: Tensor, generators: Sequence[np.random.Generator], plan: CropPlan) -> tuple[Tensor, list[Tensor]]:
    """Crops of each image, on its device.

    Args:
        image: `[B, 1, H, W]` in [0, 1].
        generators: One for each image.
        plan: Sizes and ranges.

    Returns:
        Global crops `[2, B, 1, G, G]`, and the local crops, each `[B, 1, L, L]`; all in [0, 1].
    """
    views: list[list[Tensor]] = [[] for _ in range(2 + plan.local_crops)]
    settings: list[list[tuple[float, float, float]]] = [[] for _ in views]
    for one, generator in zip(image, generators, strict=True):
        for index, view in enumerate(views):
            large = index < 2
            scale, size = (plan.global_scale, plan.global_size) if large else (plan.local_scale, plan.local_size)
            view.append(_resized_crop(one, generator, scale, size, plan.flip))
            # the first global crop is always blurred, the second hardly ever, the local ones half the time
            blur = (1.0, 0.1)[index] if large else 0.5
            settings[index].append(_appearance(generator, plan.jitter, blur, size))
    done = [_adjust(torch.stack(view), torch.tensor(values)) for view, values in zip(views, settings, strict=True)]
    return torch.stack(done[:2]), done[2:]


def _resized_crop(
    image: Tensor, generator: np.random.Generator, scale: tuple[float, float], size: int, flip: float
) -> Tensor:
    height, width = image.shape[-2:]
    area = height * width * generator.uniform(*scale)
    aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
    h = min(height, max(1, round(math.sqrt(area / aspect))))
    w = min(width, max(1, round(math.sqrt(area * aspect))))
    top, left = int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1))
    crop = image[..., top : top + h, left : left + w].unsqueeze(0)
    crop = F.interpolate(crop, (size, size), mode="bicubic", antialias=True, align_corners=False)[0]
    return crop.flip(-1) if generator.random() < flip else crop


def _appearance(generator: np.random.Generator, jitter: float, blur: float, size: int) -> tuple[float, float, float]:
    contrast = 1 + generator.uniform(-jitter, jitter)
    brightness = generator.uniform(-jitter, jitter) / 2
    # DINOv2's 0.1 to 2 pixels are those of 224-pixel crops; small crops would lose small lesions to them
    sigma = generator.uniform(0.1, 2.0) * size / 224 if generator.random() < blur else 0.01
    return contrast, brightness, sigma


def _adjust(view: Tensor, settings: Tensor) -> Tensor:
    contrast, brightness, sigma = settings.to(view).unbind(1)
    view = adjust_contrast(view.clamp(0, 1), contrast)
    view = adjust_brightness(view, brightness)
    return gaussian_blur2d(view, (9, 9), sigma[:, None].expand(-1, 2)).clamp(0, 1)


def patch_masks(
    generators: Sequence[np.random.Generator],
    grid: tuple[int, int],
    probability: float = 0.5,
    ratio: tuple[float, float] = (0.1, 0.5),
) -> Tensor:
    """Masks as iBOT draws them: with this probability a share of a view's patches in rectangular blocks, else none.

    Args:
        generators: One for each view.
        grid: Rows and columns of patches.
        probability: That a view is masked at all.
        ratio: Range of the share of patches.

    Returns:
        Bool `[B, rows * columns]`, True = masked.
    """
    masks = np.zeros((len(generators), *grid), dtype=bool)
    for mask, generator in zip(masks, generators, strict=True):
        if generator.random() < probability:
            _mask_blocks(mask, generator, round(generator.uniform(*ratio) * mask.size))
    return torch.from_numpy(masks.reshape(len(masks), -1))


def _mask_blocks(mask: np.ndarray, generator: np.random.Generator, wanted: int) -> None:
    """Put blocks of 4 patches and more (BEiT, arXiv 2106.08254, algorithm 1) until exactly `wanted` are masked."""
    rows, columns = mask.shape
    for _ in range(10):
        left = wanted - int(mask.sum())
        if left < 4:
            break
        area = generator.uniform(4, left)
        aspect = math.exp(generator.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < h < rows and 0 < w < columns):
            continue
        top, start = int(generator.integers(rows - h + 1)), int(generator.integers(columns - w + 1))
        block = mask[top : top + h, start : start + w]
        if 0 < block.size - block.sum() <= left:
            block[:] = True
    free = np.flatnonzero(~mask)
    mask.flat[generator.choice(free, max(0, wanted - int(mask.sum())), replace=False)] = True
