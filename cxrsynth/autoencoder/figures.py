"""How sharp an image is."""

import torch
from torch import Tensor
from torch.nn import functional as F


def high_frequency_power(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean square of what a 3 x 3 binomial filter takes away from an image: the detail of one to two pixels.

    Args:
        image: `[B, 1, H, W]`.
        mask: Where to look, `[B, 1, H, W]` in {0, 1}; None = everywhere.

    Returns:
        `[B]`; NaN where the mask is empty.
    """
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=image.dtype, device=image.device)
    kernel = (taps[:, None] * taps)[None, None]
    detail = (image - F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), kernel)).square()
    weight = torch.ones_like(detail) if mask is None else mask.to(detail.dtype)
    return (detail * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
