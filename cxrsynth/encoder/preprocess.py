"""From an image to what the encoder sees."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cxrsynth.data.geometry import crop_pixels
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
    It cuts the long side off; `data.geometry.to_square`, the default everywhere else, pads instead. In a configuration
    it is `square: crop` of the datamodule and `contrast: stretch` of the encoder, which checkpoints keep.

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
    channels = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
    pixels = torch.from_numpy(crop_pixels(channels, size))
    return normalise(pixels.permute(2, 0, 1).float().unsqueeze(0) / 255, "stretch")[0]
