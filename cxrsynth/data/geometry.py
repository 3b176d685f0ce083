"""Between an image of any shape and the square that networks see."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def square_padding(height: int, width: int) -> tuple[int, int, int]:
    """Top and left padding and the side of the smallest square around an image, which it stands in the middle of."""
    side = max(height, width)
    return (side - height) // 2, (side - width) // 2, side


def to_square(image: Tensor, size: int) -> Tensor:
    """Pad an image to a square with air (0) and resize it, bilinear with antialiasing. Nothing is cropped.

    Args:
        image: Float `[B, C, H, W]`, `[C, H, W]` or `[H, W]`.
        size: Side of the result, pixels.

    Returns:
        The same number of dimensions, ending in `[size, size]`.
    """
    height, width = image.shape[-2:]
    top, left, side = square_padding(height, width)
    image = F.pad(image, (left, side - width - left, top, side - height - top))
    return _resize(image, size)


def from_square(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Undo `to_square`: resize a square to the image's own scale and cut the padding off.

    Args:
        image: Float `[..., S, S]` (two to four dimensions).
        shape: Height and width of the image that the square was made from.

    Returns:
        `[..., H, W]`.
    """
    height, width = shape
    top, left, side = square_padding(height, width)
    return _resize(image, side)[..., top : top + height, left : left + width]


def crop_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Pillow's bicubic resize of the short side to `size`, then the centre crop: what CheXFound's evaluation does.

    Args:
        image: uint8 `[H, W]` or `[H, W, 3]`.
        size: Side of the result, pixels.

    Returns:
        uint8 `[size, size]` or `[size, size, 3]`. What the long side has more is lost.
    """
    picture = Image.fromarray(image)
    width, height = picture.size
    short = min(width, height)
    # the long side is truncated, not rounded, as torchvision does
    wide, high = (size, int(size * height / width)) if width == short else (int(size * width / height), size)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    resized = np.asarray(picture.resize((wide, high), Image.Resampling.BICUBIC))
    return resized[top : top + size, left : left + size].copy()


def crop_square(image: Tensor, size: int) -> Tensor:
    """An image `[1, H, W]` in [0, 1] as `crop_pixels` sees it at 8 bits, `[1, size, size]` in [0, 1]."""
    pixels = (255 * image[0]).round().to(torch.uint8).numpy()
    return torch.from_numpy(crop_pixels(pixels, size))[None].float() / 255


SQUARES: dict[str, Callable[[Tensor, int], Tensor]] = {"pad": to_square, "crop": crop_square}
"""How an image becomes a square: whole, with air beside it, or without the ends of its long side."""


def _resize(image: Tensor, size: int) -> Tensor:
    if image.shape[-2:] == (size, size):
        return image
    batched = image.reshape((1,) * (4 - image.ndim) + image.shape)
    resized = F.interpolate(batched, (size, size), mode="bilinear", antialias=True)
    return resized.reshape(*image.shape[:-2], size, size)
