"""From an image to what the encoder sees."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cxrsynth.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(image: Tensor, contrast: str = "plain") -> Tensor:
    """Repeat grey over three channels and normalise by ImageNet's mean and standard deviation.

    Args:
        image: `[B, 1, H, W]` in [0, 1] (`[B, 3, H, W]` is normalised as it is).
        contrast: What comes before (see `CONTRASTS`).

    Returns:
        `[B, 3, H, W]`.

    Raises:
        UserError: Another number of dimensions or channels, or an unknown contrast.
    """
    if contrast not in CONTRASTS:
        raise UserError(f"contrast is {contrast!r}; choose one of {', '.join(CONTRASTS)}")
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        raise UserError(f"image has shape {tuple(image.shape)}; the encoder takes [B, 1, H, W] with values in [0, 1]")
    mean = image.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = image.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return (CONTRASTS[contrast](image) - mean) / std


def standardise(image: Tensor) -> Tensor:
    """Give each image, over all its channels, ImageNet's mean of means and of deviations; a constant one its mean."""
    mean, std = sum(IMAGENET_MEAN) / 3, sum(IMAGENET_STD) / 3
    centred = image - image.mean((-3, -2, -1), keepdim=True)
    deviation = centred.square().mean((-3, -2, -1), keepdim=True).sqrt()
    return centred / torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)) * std + mean


def stretch(image: Tensor) -> Tensor:
    """Per-image, per-channel min-max to [0, 1]; a constant channel becomes 0.

    Args:
        image: `[..., H, W]`.
    """
    low, high = image.amin((-2, -1), keepdim=True), image.amax((-2, -1), keepdim=True)
    return (image - low) / torch.where(high > low, high - low, torch.ones_like(high))


CONTRASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda image: image,
    "stretch": stretch,
    "standardise": standardise,
}
"""What is done to an image in [0, 1] before the fixed normalisation.

"plain" nothing, as in CheXFound's pretraining; "stretch" min-max, as in its classification; "standardise" evens out
exposure, which helps small encoders that see few images.
"""


def preprocess_chexfound(image: np.ndarray, size: int = 512) -> Tensor:
    """The transform of CheXFound's classification evaluation (arXiv 2502.05142, public code).

    RGB, Pillow's bicubic resize of the short side to `size`, centre crop, per-channel min-max, ImageNet normalisation.
    It cuts the long side off; `data.geometry.to_square`, the default everywhere else, pads instead.

    Args:
        image: uint8 `[H, W]` or `[H, W, 3]`.
        size: Side of the result in pixels.

    Returns:
        float32 `[3, size, size]`, ready for `encoder.intermediate`.

    Raises:
        UserError: Not 8-bit grey or RGB.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise UserError(
            f"image is {image.dtype} of shape {image.shape}; CheXFound's transform takes uint8 [H, W] or [H, W, 3]"
        )
    picture = Image.fromarray(image).convert("RGB")
    width, height = picture.size
    short = min(width, height)
    # the long side is truncated, not rounded, as torchvision does
    wide, high = (size, int(size * height / width)) if width == short else (int(size * width / height), size)
    picture = picture.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    pixels = np.asarray(picture)[top : top + size, left : left + size]
    return normalise(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().unsqueeze(0) / 255, "stretch")[0]
