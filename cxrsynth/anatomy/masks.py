"""Masks as shapes: tidied organs, and the part of a film that is chest."""

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from cxrsynth.errors import UserError

SMALLEST = 0.1  # parts below this share of the largest one are specks, not a second lung


def tidy(mask: Tensor, parts: int) -> Tensor:
    """Keep the largest connected parts of each mask and fill their holes.

    Args:
        mask: bool `[B, 1, H, W]`.
        parts: How many parts to keep: 2 for lungs, 1 for a heart. Specks below a tenth of the largest go as well.

    Returns:
        bool `[B, 1, H, W]`, on the mask's device.
    """
    tidied = [_tidy(one, parts) for one in mask[:, 0].cpu().numpy()]
    return torch.from_numpy(np.stack(tidied))[:, None].to(mask.device)


def _tidy(mask: np.ndarray, parts: int) -> np.ndarray:
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    areas = np.bincount(labels.ravel())[1:]
    largest = np.argsort(-areas, kind="stable")[:parts]
    kept = [k for k in largest if areas[k] >= SMALLEST * areas.max()]
    return ndimage.binary_fill_holes(np.isin(labels, 1 + np.array(kept)))


def chest_field(lungs: Tensor, margin: float = 0.02) -> Tensor:
    """Lungs, mediastinum and what lies between them: the convex hull of the lungs, grown a little.

    Args:
        lungs: bool `[B, 1, H, W]`.
        margin: Distance by which the hull grows, as a share of the longer side of the image.

    Returns:
        bool `[B, 1, H, W]`; empty where there are no lungs.

    Raises:
        UserError: A shape other than `[B, 1, H, W]`, or a negative margin.
    """
    if lungs.ndim != 4 or lungs.shape[1] != 1:
        raise UserError(f"lungs has shape {tuple(lungs.shape)}; give [B, 1, H, W]")
    if margin < 0:
        raise UserError(f"margin is {margin}; give a share of the image's side, 0 or more")
    radius = margin * max(lungs.shape[-2:])
    fields = [_hull(one, radius) for one in lungs[:, 0].cpu().numpy() > 0]
    return torch.from_numpy(np.stack(fields))[:, None].to(lungs.device)


def _hull(mask: np.ndarray, radius: float) -> np.ndarray:
    """Pixels within `radius` of the sides' lines of the convex hull; the mask itself where it is flat or a point."""
    if not mask.any():
        return mask
    try:
        # sides are unit normals n and offsets b with n.x + b <= 0 inside
        sides = ConvexHull(np.argwhere(mask).astype(float)).equations
    except QhullError:
        return mask
    pixels = np.indices(mask.shape).reshape(2, -1)
    inside = (sides[:, :2] @ pixels + sides[:, 2:] <= radius + 1e-9).all(0)
    return inside.reshape(mask.shape)
