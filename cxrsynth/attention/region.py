"""From a map to the region to paint."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cxrsynth.errors import UserError

MASS, MIN_COMPONENT, DILATE = 0.7, 0.5, 2  # how painting makes regions of maps, unless told otherwise
_EIGHT = np.ones((3, 3), dtype=int)  # pixels that touch at a corner belong together


def smallest_area(map: Tensor, mass: float | Tensor) -> Tensor:
    """The fewest pixels that hold a share of each map's mass; the first in reading order where values tie.

    Args:
        map: Non-negative, `[B, 1, H, W]`.
        mass: Share in (0, 1], one for all or `[B]`.

    Returns:
        `[B, 1, H, W]` in {0, 1}; empty where a map is 0 everywhere.
    """
    flat = map.flatten(1).double()
    values, order = flat.sort(dim=1, descending=True, stable=True)
    brighter = values.cumsum(1) - values
    share = torch.as_tensor(mass, dtype=flat.dtype, device=flat.device).reshape(-1, 1)
    kept = (brighter < share * flat.sum(1, keepdim=True)) & (values > 0)
    return torch.zeros_like(map).flatten(1).scatter(1, order, kept.to(map.dtype)).view_as(map)


def region_from_map(
    map: Tensor,
    mass: float = MASS,
    min_component: float = MIN_COMPONENT,
    dilate: int = DILATE,
    limit: Tensor | None = None,
) -> Tensor:
    """The region that a map points at: smallest area holding a share of its mass, small specks dropped, grown a little.

    Args:
        map: Non-negative, `[B, 1, H, W]`.
        mass: Share of the map's mass that the region holds before specks are dropped, in (0, 1].
        min_component: Connected parts smaller than this share of the largest part are dropped, in [0, 1].
        dilate: Radius in pixels of the disc by which the region grows.
        limit: Optional `[B, 1, H, W]`; the region stays where this is above 0 (the lungs, say).

    Returns:
        `[B, 1, H, W]` in {0, 1}, of the map's dtype and device. The same map always gives the same region.

    Raises:
        UserError: An argument out of range or a map that is negative or not finite.
    """
    if not 0 < mass <= 1:
        raise UserError(f"mass is {mass}; the share of the map to cover lies above 0 and up to 1")
    if not 0 <= min_component <= 1:
        raise UserError(f"min_component is {min_component}; it is a share of the largest part, from 0 to 1")
    if dilate < 0:
        raise UserError(f"dilate is {dilate}; give a radius in pixels, 0 or more")
    if map.ndim != 4 or map.shape[1] != 1 or not torch.isfinite(map).all() or (map < 0).any():
        raise UserError(f"map has shape {tuple(map.shape)}; give [B, 1, H, W] with finite values of 0 or more")
    if limit is not None:
        map = map * (limit > 0)
    regions = smallest_area(map, mass)[:, 0].bool().cpu().numpy()
    grown = torch.from_numpy(np.stack([_grow(_drop_specks(region, min_component), dilate) for region in regions]))
    region = grown.unsqueeze(1).to(map)
    return region if limit is None else region * (limit > 0)


def _drop_specks(region: np.ndarray, min_component: float) -> np.ndarray:
    parts, count = ndimage.label(region, structure=_EIGHT)
    if not count:
        return region
    areas = np.bincount(parts.ravel())[1:]
    return np.isin(parts, 1 + np.flatnonzero(areas >= min_component * areas.max()))


def _grow(region: np.ndarray, radius: int) -> np.ndarray:
    if radius == 0:
        return region
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return ndimage.binary_dilation(region, structure=x * x + y * y <= radius * radius)
