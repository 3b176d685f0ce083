"""Between an image of any shape and the square that networks see."""

import torch.nn.functional as F
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


def _resize(image: Tensor, size: int) -> Tensor:
    if image.shape[-2:] == (size, size):
        return image
    batched = image.reshape((1,) * (4 - image.ndim) + image.shape)
    resized = F.interpolate(batched, (size, size), mode="bilinear", antialias=True)
    return resized.reshape(*image.shape[:-2], size, size)
