"""The windows that an autoencoder learns on, like those in which an inpainter paints."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_windows(image: Tensor, size: int, minimum: float, generator: torch.Generator) -> Tensor:
    """A square window of random side and place from each image, resampled (bilinear, antialiased).

    Args:
        image: `[B, 1, S, S]`.
        size: Side of the result.
        minimum: Smallest window, in parts of the image's side; the largest is the image.
        generator: Source of the draws, on the CPU.

    Returns:
        `[B, 1, size, size]`.
    """
    whole = image.shape[-1]
    draws = torch.rand(len(image), 3, generator=generator)
    windows = []
    for one, (share, x, y) in zip(image, draws.tolist(), strict=True):
        side = round(whole * (minimum + (1 - minimum) * share))
        left, top = round(x * (whole - side)), round(y * (whole - side))
        window = one[None, :, top : top + side, left : left + side]
        windows.append(F.interpolate(window, (size, size), mode="bilinear", antialias=True, align_corners=False))
    return torch.cat(windows)
