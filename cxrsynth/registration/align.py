"""What makes two patients' images comparable before Demons: grey levels, local contrast and framing.

Everything is computed image by image in float64 on the CPU: neither batch nor threads change a bit.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cxrsynth.ops.affine import affine
from cxrsynth.ops.box import box_mean

COARSE, FINE = 32, 64  # pixels a side of the images that the affine map is found on
STARTS = torch.tensor(
    [
        [[math.exp(zoom), 0, 0], [0, math.exp(zoom), shift]]  # shift down in half images
        for zoom in (0.0, -0.2, 0.2)
        for shift in (0.0, -0.2, 0.2)
    ],
    dtype=torch.float64,
)
KEPT = 3  # starts that are followed after the first steps


def match_histogram(moving: Tensor, fixed: Tensor, levels: int = 64) -> Tensor:
    """Map the grey values of `moving` so that their quantiles become those of `fixed`, linear in between.

    Args:
        moving: `[B, 1, H, W]`.
        fixed: `[B, 1, H, W]`.
        levels: Number of quantiles.

    Returns:
        `[B, 1, H, W]`; NaN stays NaN and counts in no quantile.
    """
    matched = torch.empty_like(moving)
    at = np.linspace(0, 1, levels)
    for i in range(len(moving)):
        values, target = (image[i].detach().cpu().double().numpy() for image in (moving, fixed))
        known, wanted = values[np.isfinite(values)], target[np.isfinite(target)]
        if known.size == 0 or wanted.size == 0:
            matched[i] = moving[i]
            continue
        source, goal = np.quantile(known, at), np.quantile(wanted, at)
        source, first = np.unique(source, return_index=True)  # constant stretches have one quantile value
        matched[i] = torch.from_numpy(np.interp(values, source, goal[first])).to(moving)
    return matched


def local_contrast(image: Tensor, reach: float = 0.1) -> Tensor:
    """Grey levels relative to their neighbourhood: (I - mean) / standard deviation, 0 in the black frame of a film.

    Lungs become dark and mediastinum bright to the same degree in every exposure.

    Args:
        image: `[B, 1, H, W]` in [0, 1].
        reach: Standard deviation of the neighbourhood, all but a Gaussian, as a share of the longer side.

    Returns:
        `[B, 1, H, W]`, about -3 to 3.
    """
    out = torch.empty_like(image)
    sigma = reach * max(image.shape[-2:])
    radius = round((math.sqrt(4 * sigma**2 + 1) - 1) / 2)  # three boxes of variance sigma^2 / 3 each
    for i in range(len(image)):
        values = image[i, 0].detach().cpu().double().nan_to_num(posinf=0.0, neginf=0.0)
        exposed = (box_mean(values, 1, 2) > 0.03).double()
        share = box_mean(exposed, radius, 3) + 1e-3
        centred = values - box_mean(exposed * values, radius, 3) / share
        spread = box_mean(exposed * centred**2, radius, 3) / share
        out[i, 0] = exposed * centred / (spread + 1e-3).sqrt()
    return out


def affine_start(moving: Tensor, fixed: Tensor) -> Tensor:
    """The affine map that best correlates two images of different framing.

    Gauss-Newton on the squared difference of normalised small images, from several scales and shifts; the best
    normalised cross-correlation wins and is refined.

    Args:
        moving: `[B, 1, H, W]`, for different patients the `local_contrast` of an image.
        fixed: `[B, 1, H, W]`.

    Returns:
        Displacement `[B, 2, H, W]` in pixels.
    """
    height, width = fixed.shape[-2:]
    x, y = _centres(width), _centres(height)[:, None]
    half_size = torch.tensor([[width / 2], [height / 2]])
    fields = fixed.new_empty(len(fixed), 2, height, width)
    for i in range(len(fixed)):
        m, f = (_resize(image[i, 0].detach().cpu().double(), FINE).nan_to_num() for image in (moving, fixed))
        coarse = _resize(m, COARSE), _resize(f, COARSE)
        followed = affine(*coarse, affine(*coarse, STARTS, 4)[:KEPT], 8)
        a = affine(m, f, followed[:1], 20)[0]
        for axis, (across, down, shift) in enumerate((a - torch.eye(2, 3)) * half_size):
            fields[i, axis] = across * x + shift + down * y
    return fields


def _centres(n: int) -> Tensor:
    """Centres of n pixels in [-1, 1]."""
    return (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1


def _resize(image: Tensor, size: int) -> Tensor:
    return F.interpolate(image[None, None], (size, size), mode="bilinear", antialias=True)[0, 0]
