"""The regions that a training paints: attention-shaped, lesion-shaped, boxes, average places, lungs, the full image."""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.attention.region import smallest_area
from cxrsynth.errors import UserError

Kind = Literal["attention", "blob", "box", "full", "lungs", "average"]
KINDS: tuple[Kind, ...] = get_args(Kind)
AVERAGE_SHARE = (0.5, 0.8)  # of an average map's mass; painting takes 0.7
GROW = 2  # pixels by which an attention-shaped region is widened, as `region_from_map` does when painting


def check_mix(mix: Mapping[str, float]) -> None:
    """Raises `UserError` unless `mix` gives non-negative weights, not all 0, to known kinds of region."""
    unknown = sorted(set(mix) - set(KINDS))
    if unknown:
        raise UserError(f"regions names {', '.join(unknown)}; choose from {', '.join(KINDS)}")
    if min(mix.values(), default=0) < 0 or sum(mix.values()) <= 0:
        raise UserError(f"regions has weights {dict(mix)}; give non-negative weights, at least one above 0")


def draw_kinds(batch: int, mix: Mapping[str, float], generator: torch.Generator | None = None) -> Tensor:
    """Kinds of region at the rates of `mix`, as indices into `KINDS`, int64 `[B]`."""
    weights = torch.tensor([float(mix.get(kind, 0)) for kind in KINDS])
    return torch.multinomial(weights, batch, replacement=True, generator=generator)


def bounding_boxes(region: Tensor) -> Tensor:
    """`x_min, y_min, x_max, y_max` (half open, pixels) of each region, float32 `[B, 4]`; zeros for an empty one."""
    present = region[:, 0] > 0
    sides = []
    for axis, length in ((1, region.shape[3]), (2, region.shape[2])):
        along = present.any(axis)
        index = torch.arange(length, device=region.device)
        sides.append((torch.where(along, index, length).amin(1), torch.where(along, index + 1, 0).amax(1)))
    boxes = torch.stack([sides[0][0], sides[1][0], sides[0][1], sides[1][1]], 1).float()
    return boxes * present.flatten(1).any(1, keepdim=True)


def random_boxes(batch: int, height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """Boxes of 1/10 to 1/2 of the image on each side, anywhere inside it, `[B, 4]`."""
    draw = torch.rand(batch, 4, generator=generator)
    limit = torch.tensor([width, height])
    extent = limit * (0.1 + 0.4 * draw[:, 2:])
    start = draw[:, :2] * (limit - extent)
    return torch.cat([start, start + extent], 1)


def box_region(boxes: Tensor, height: int, width: int) -> Tensor:
    """Pixels whose centre lies in the box, `[B, 1, height, width]` in {0, 1}."""
    x, y = _pixel_centres(height, width)
    left, top, right, bottom = boxes.cpu().float().T[:, :, None, None]
    return ((x >= left) & (x < right) & (y >= top) & (y < bottom)).float()[:, None]


def blob_region(boxes: Tensor, height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """Lesion-shaped regions: ellipses in the boxes whose radius wanders with the angle, `[B, 1, height, width]`."""
    x, y = _pixel_centres(height, width)
    left, top, right, bottom = boxes.cpu().float().T[:, :, None, None]
    dx = (x - (left + right) / 2) / ((right - left) / 2).clamp_min(1)
    dy = (y - (top + bottom) / 2) / ((bottom - top) / 2).clamp_min(1)
    angle, radius = torch.atan2(dy, dx), torch.hypot(dx, dy)
    edge = torch.ones_like(radius)
    for harmonic in range(2, 6):
        size, phase = torch.rand(2, len(boxes), 1, 1, generator=generator)
        edge = edge + 0.3 / harmonic * size * torch.cos(harmonic * angle + 2 * math.pi * phase)
    return (radius < edge).float()[:, None]


def draw_regions(
    maps: Tensor,
    diseased: Tensor,
    mix: Mapping[str, float],
    share: tuple[float, float] = (0.35, 0.7),
    generator: torch.Generator | None = None,
    lungs: Tensor | None = None,
    averages: Tensor | None = None,
) -> Tensor:
    """One region for each image of a training batch.

    A diseased image is painted where its map lies: the map's own shape, a blob or a box about it, where its finding
    lies on average (if at least half of its map is there), or everywhere. Any other image borrows the map of one of
    the batch, so that shape and place do not tell the finding; half of a healthy image's blobs and boxes lie anywhere.
    Where no image of the batch has a map all are painted everywhere.

    Args:
        maps: Attention maps, `[B, 1, H, W]`; 0 for healthy images.
        diseased: bool `[B]`.
        mix: Weight of each kind of region.
        share: Range of the share of the map's mass that its region holds.
        generator: Source of the draws, on the CPU.
        lungs: Masks of the lungs, `[B, 1, H, W]`, 0 where unknown; an image without one is painted everywhere instead.
        averages: Average map of each image's finding, `[B, 1, h, w]`, 0 where unknown: then its own map is used.

    Returns:
        `[B, 1, H, W]` in {0, 1}, none empty.
    """
    batch, _, height, width = maps.shape
    kinds = draw_kinds(batch, mix, generator)
    anywhere = random_boxes(batch, height, width, generator)
    donors = _donors(diseased & maps.flatten(1).any(1), generator).to(maps.device)
    low, high = share
    shares = low + (high - low) * torch.rand(batch, generator=generator)
    shaped = _shape(maps[donors], shares)
    boxes = bounding_boxes(shaped).cpu()
    boxes = boxes + 0.15 * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2) * (
        torch.rand(batch, 4, generator=generator) - 0.5
    )
    free = (torch.rand(batch, generator=generator) < 0.5) & ~diseased.cpu() | (boxes[:, 2:] - boxes[:, :2]).amin(1).lt(
        2
    )
    boxes = torch.where(free[:, None], anywhere, boxes)
    choices = {
        "attention": shaped,
        "blob": blob_region(boxes, height, width, generator).to(maps.device),
        "box": box_region(boxes, height, width).to(maps.device),
        "full": torch.ones_like(maps),
        "average": shaped,
        "lungs": torch.zeros_like(maps) if lungs is None else (lungs > 0.5).to(maps.dtype),
    }
    if averages is not None and mix.get("average"):
        choices["average"] = _average_region(averages[donors], maps[donors], shaped, generator)
    region = torch.stack([choices[kind] for kind in KINDS])[kinds, torch.arange(batch)]
    lost = ~region.flatten(1).any(1)  # no map, no lungs: the lesion may be anywhere
    return torch.where(lost.view(-1, 1, 1, 1), 1.0, region)


def _shape(maps: Tensor, shares: Tensor) -> Tensor:
    return F.max_pool2d(smallest_area(maps, shares.to(maps.device)), 2 * GROW + 1, 1, GROW)


def _average_region(averages: Tensor, maps: Tensor, shaped: Tensor, generator: torch.Generator | None) -> Tensor:
    low, high = AVERAGE_SHARE
    shares = low + (high - low) * torch.rand(len(maps), generator=generator)
    region = _shape(F.interpolate(averages.to(maps), maps.shape[-2:], mode="bilinear"), shares)
    mass, known = (each.sum((1, 2, 3), keepdim=True) for each in (maps, averages.to(maps)))
    held = (region * maps).sum((1, 2, 3), keepdim=True) >= 0.5 * mass
    return torch.where(held & (mass > 0) & (known > 0), region, shaped)


def _donors(mapped: Tensor, generator: torch.Generator | None) -> Tensor:
    """For each image the index whose map it uses: its own, or for one without a map that of a random other."""
    mapped = mapped.cpu()
    own = torch.arange(len(mapped))
    if not mapped.any():
        return own
    others = mapped.nonzero().flatten()
    borrowed = others[torch.randint(len(others), (len(mapped),), generator=generator)]
    return torch.where(mapped, own, borrowed)


def _pixel_centres(height: int, width: int) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return x, y
