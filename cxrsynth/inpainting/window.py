"""The square window around a region: cut out, resampled to the working resolution, and put back."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.errors import UserError


@dataclass(frozen=True)
class Windows:
    """One square window for each image of a batch, in pixels of the images.

    Attributes:
        boxes: `(left, top, side)` of each window. A window wider than its image sticks out on both sides; what it sees
            there is air (0).
        height: Height of the images.
        width: Width of the images.
    """

    boxes: tuple[tuple[int, int, int], ...]
    height: int
    width: int

    def crop(self, image: Tensor, size: int) -> Tensor:
        """The windows of `image` `[B, 1, H, W]`, resampled to `[B, 1, size, size]` (bilinear, antialiased)."""
        return torch.cat([_resample(self._cut(image, i), size) for i in range(len(self.boxes))])

    def crop_region(self, region: Tensor, size: int) -> Tensor:
        """The windows of a binary region as `[B, 1, size, size]`: 1 where any pixel of the region falls."""
        cuts = [F.adaptive_max_pool2d(self._cut(region, i), size) for i in range(len(self.boxes))]
        return torch.cat(cuts)

    def coordinates(self, size: int, device: torch.device | str = "cpu") -> Tensor:
        """Where the windows lie in the square that holds the image: `[B, 2, size, size]`, x then y, in [-1, 1]."""
        boxes = torch.tensor(self.boxes, dtype=torch.float32, device=device)
        steps = (torch.arange(size, device=device) + 0.5) / size
        square = max(self.height, self.width)
        across = (boxes[:, :1] + boxes[:, 2:] * steps - self.width / 2) * (2 / square)
        down = (boxes[:, 1:2] + boxes[:, 2:] * steps - self.height / 2) * (2 / square)
        shape = (len(self.boxes), size, size)
        return torch.stack([across[:, None, :].expand(shape), down[:, :, None].expand(shape)], 1)

    def paste(self, painted: Tensor, image: Tensor, region: Tensor, feather: int = 0) -> Tensor:
        """Put painted windows into the images, inside the region only.

        What is put back is the *change* at the working resolution, so the detail of the image that is finer than the
        working resolution (its noise) stays in the painted part too.

        Args:
            painted: `[B, 1, size, size]`.
            image: `[B, 1, H, W]`.
            region: `[B, 1, H, W]` in {0, 1}.
            feather: Width in pixels of the soft edge (see `soft_edge`); 0 = none.

        Returns:
            `[B, 1, H, W]` in [0, 1]; equal to `image`, bit for bit, wherever `region` is 0.
        """
        size = painted.shape[-1]
        share = soft_edge(region, feather)
        result = image.clone()
        for i, (left, top, side) in enumerate(self.boxes):
            change = _resample(painted[i : i + 1] - _resample(self._cut(image, i), size), side)
            rows = slice(max(top, 0), min(top + side, self.height))
            columns = slice(max(left, 0), min(left + side, self.width))
            inside = change[..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            here = image[i : i + 1, :, rows, columns]
            changed = (here + share[i : i + 1, :, rows, columns] * inside).clamp(0, 1)
            result[i : i + 1, :, rows, columns] = torch.where(region[i : i + 1, :, rows, columns] > 0, changed, here)
        return result

    def _cut(self, image: Tensor, i: int) -> Tensor:
        left, top, side = self.boxes[i]
        outside = (-min(left, 0), max(left + side - self.width, 0), -min(top, 0), max(top + side - self.height, 0))
        cut = image[i : i + 1, :, max(top, 0) : top + side, max(left, 0) : left + side]
        return F.pad(cut, outside) if any(outside) else cut


def soft_edge(region: Tensor, width: int) -> Tensor:
    """How much of the change each pixel takes: 0 outside the region, rising inside it to 1 within `width` pixels.

    Args:
        region: `[B, 1, H, W]` in {0, 1}. The image's own border is no edge.
        width: Pixels; 0 gives the region itself. Where the region is thinner, 1 is not reached.

    Raises:
        UserError: A negative width.
    """
    if width < 0:
        raise UserError(f"feather is {width}; give a width in pixels, 0 or more")
    total, core = region, region
    for _ in range(width):
        core = 1 - F.max_pool2d(1 - core, 3, 1, 1)
        total = total + core
    return total / (width + 1)


def windows_around(
    region: Tensor,
    *,
    context: float = 0.25,
    minimum: float = 0.375,
    jitter: float = 0.0,
    generator: torch.Generator | None = None,
) -> Windows:
    """Square windows that hold each region with some context.

    Args:
        region: `[B, 1, H, W]` in {0, 1}. An empty one gets a window at the image's centre.
        context: Margin on every side, in parts of the region's longer extent.
        minimum: Smallest side, in parts of the image's longer side. The smallest window at the working resolution
            should be about as fine as the image, or the painted part turns soft.
        jitter: Training only: largest random change of side and place, in parts of the side.
        generator: Source of the jitter, on the CPU.

    Raises:
        UserError: A negative context, or a minimum outside (0, 1].
    """
    if context < 0 or not 0 < minimum <= 1:
        raise UserError(f"context is {context} and minimum {minimum}; give context >= 0 and minimum in (0, 1]")
    height, width = region.shape[-2:]
    longest = max(height, width)
    boxes = []
    for present in region[:, 0].bool().cpu():
        rows, columns = present.any(1).nonzero().flatten(), present.any(0).nonzero().flatten()
        if len(rows) == 0:
            rows, columns = torch.tensor([height // 2]), torch.tensor([width // 2])
        top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
        extent = max(bottom - top, right - left)
        side = max(extent * (1 + 2 * context), minimum * longest)
        x, y = (left + right) / 2, (top + bottom) / 2
        if jitter:
            grow, dx, dy = (torch.rand(3, generator=generator) * 2 - 1).tolist()
            side = max(side * (1 + jitter * grow), extent)
            x, y = x + dx * jitter * side / 2, y + dy * jitter * side / 2
        length = min(math.ceil(side), longest)
        # The region stays inside the window whatever the jitter, and the window inside the image where it fits.
        x0 = _fit(round(x - length / 2), left, right, length, width)
        y0 = _fit(round(y - length / 2), top, bottom, length, height)
        boxes.append((x0, y0, length))
    return Windows(tuple(boxes), height, width)


def _fit(start: int, low: int, high: int, length: int, limit: int) -> int:
    if length > limit:
        return (limit - length) // 2
    start = min(max(start, high - length), low)
    return min(max(start, 0), limit - length)


def _resample(image: Tensor, size: int) -> Tensor:
    if image.shape[-1] == size:
        return image
    return F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
