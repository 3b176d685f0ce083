"""What makes two patients' images comparable before Demons: grey levels and framing.

Everything is computed image by image in float64 on the CPU, so that neither batch nor threads change a bit.
"""

import numpy as np
import torch
from torch import Tensor


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


def moment_start(moving: Tensor, fixed: Tensor) -> Tensor:
    """Translation and scale that carry the intensity's centroid and spread in `fixed` to those in `moving`.

    Args:
        moving: `[B, 1, H, W]`, at least 0.
        fixed: `[B, 1, H, W]`, at least 0.

    Returns:
        Displacement `[B, 2, H, W]` in pixels, scale limited to 0.75-1.33 and shift to a quarter of the image.
    """
    height, width = fixed.shape[-2:]
    fields = []
    for i in range(len(fixed)):
        axes = []
        for axis, size in ((0, width), (1, height)):
            at, spread = _moments(fixed[i, 0], axis)
            to, to_spread = _moments(moving[i, 0], axis)
            scale = float(np.clip(to_spread / spread if spread > 0 else 1.0, 0.75, 1.33))
            shift = float(np.clip(to - at, -size / 4, size / 4))
            axes.append((scale - 1) * (np.arange(size) - at) + shift)
        x, y = np.broadcast_to(axes[0], (height, width)), np.broadcast_to(axes[1][:, None], (height, width))
        fields.append(torch.from_numpy(np.stack([x, y])))
    return torch.stack(fields).to(fixed)


def _moments(image: Tensor, axis: int) -> tuple[float, float]:
    """Centroid and standard deviation along columns (axis 0) or rows (axis 1), intensity as weight."""
    values = np.nan_to_num(image.detach().cpu().double().numpy(), posinf=0.0, neginf=0.0)
    profile = values.clip(min=0).sum(axis=axis)
    total = profile.sum()
    position = np.arange(len(profile))
    if total == 0:
        return (len(profile) - 1) / 2, 0.0
    mean = (profile * position).sum() / total
    return float(mean), float(np.sqrt((profile * (position - mean) ** 2).sum() / total))
