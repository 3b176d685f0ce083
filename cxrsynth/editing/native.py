"""The window of an image of any size, cut out and put back a few rows at a time, so that memory hardly grows with it.

The same resampling as `cxrsynth.inpainting.window`, as products with small matrices.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cxrsynth.data.stored import StoredImage
from cxrsynth.inpainting.window import Windows, windows_around

ROWS = 16  # rows that are held as floats at a time
COARSE = 2**19  # pixels of a region from which on its edge is measured in steps of two: it takes 12 bytes a pixel
FEATHER = 2.0  # pixels of the working resolution over which a change fades in, by default


class Canvas(Protocol):
    """An image that is looked at and painted block by block."""

    shape: tuple[int, int]

    def display(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """A block as it is displayed, in [0, 1]."""

    def put(self, rows: slice, columns: slice, display: NDArray[np.float32], inside: NDArray[np.bool_]) -> None:
        """Change the pixels of a block where `inside` says so, in place."""


class StoredCanvas:
    """A stored image, changed in place.

    Args:
        image: Its `stored` is painted on.
    """

    def __init__(self, image: StoredImage):
        self.image, self.shape = image, (image.stored.shape[0], image.stored.shape[1])

    def display(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """See `Canvas`."""
        return self._shown(self.image.stored[rows, columns])

    def put(self, rows: slice, columns: slice, display: NDArray[np.float32], inside: NDArray[np.bool_]) -> None:
        """See `Canvas`. A pixel whose displayed value stays the same keeps its stored value."""
        block = self.image.stored[rows, columns]
        before = block[inside]
        after = self.image.to_stored(display[inside])
        # beyond the window many stored values are displayed alike; there the image's own stay
        block[inside] = np.where(self._shown(after) == self._shown(before), before, after)

    def _shown(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        return self.image.curve[stored.astype(np.int32) - self.image.minimum]


class FloatCanvas:
    """An image of floats in [0, 1], changed in place.

    Args:
        pixels: `[H, W]`, painted on.
    """

    def __init__(self, pixels: NDArray[np.floating]):
        self.pixels, self.shape = pixels, (pixels.shape[0], pixels.shape[1])

    def display(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """See `Canvas`."""
        return self.pixels[rows, columns].astype(np.float32)

    def put(self, rows: slice, columns: slice, display: NDArray[np.float32], inside: NDArray[np.bool_]) -> None:
        """See `Canvas`."""
        self.pixels[rows, columns][inside] = display[inside]


@dataclass(frozen=True)
class NativeWindow:
    """A square window of a canvas at its native size.

    Attributes:
        left: First column; negative where the window is wider than the image, which is surrounded by air (0).
        top: First row.
        side: Pixels.
    """

    left: int
    top: int
    side: int

    @classmethod
    def around(cls, region: NDArray[np.bool_], context: float, minimum: float) -> "NativeWindow":
        """The window that `windows_around` gives a region `[H, W]`."""
        pixels = torch.from_numpy(np.ascontiguousarray(region))  # a region of one value may lie in one byte
        ((left, top, side),) = windows_around(pixels[None, None], context=context, minimum=minimum).boxes
        return cls(left, top, side)

    @classmethod
    def whole(cls, shape: tuple[int, int]) -> "NativeWindow":
        """The square that holds the image, as `cxrsynth.data.geometry.to_square` pads it."""
        height, width = shape
        side = max(shape)
        return cls(-((side - width) // 2), -((side - height) // 2), side)

    def coordinates(self, size: int, shape: tuple[int, int]) -> Tensor:
        """Where the window lies in the chest, `[1, 2, size, size]` (see `Windows.coordinates`)."""
        return Windows(((self.left, self.top, self.side),), *shape).coordinates(size)

    def crop(self, canvas: Canvas, size: int) -> Tensor:
        """The window as displayed, resampled to `[1, 1, size, size]` (bilinear, antialiased)."""
        rows, columns = self._within(canvas.shape)
        matrix = resampling(self.side, size)
        down, across = self._part(matrix, rows, self.top, 1), self._part(matrix, columns, self.left, 1)
        result = torch.zeros(size, size)
        for block in _blocks(rows):
            strip = torch.from_numpy(canvas.display(block, columns)) @ across.T
            result += down[:, block.start - rows.start : block.stop - rows.start] @ strip
        return result[None, None]

    def crop_region(self, region: NDArray[np.bool_], size: int) -> Tensor:
        """The window of a region as `[1, 1, size, size]` in {0, 1}: 1 where any pixel of the region falls."""
        rows, columns = self._within((region.shape[0], region.shape[1]))
        cut = region[rows, columns]
        bins = [(i * self.side // size, -(-(i + 1) * self.side // size)) for i in range(size)]
        tall = np.stack([_span(cut, a, b, self.top - rows.start, 0) for a, b in bins])
        small = np.stack([_span(tall, a, b, self.left - columns.start, 1) for a, b in bins], 1)
        return torch.from_numpy(small).float()[None, None]

    def replace(self, canvas: Canvas, painted: Tensor) -> None:
        """Put what was painted, `[1, 1, size, size]` as displayed, in the place of the whole window."""
        rows, columns = self._within(canvas.shape)
        for block, values in self._enlarged(painted, rows, columns):
            canvas.put(block, columns, np.clip(values, 0, 1), np.ones(values.shape, bool))

    def paste(self, canvas: Canvas, change: Tensor, region: NDArray[np.bool_], feather: int | None = None) -> None:
        """Add a change, made at the working resolution, to the canvas, inside the region only.

        Detail finer than the working resolution stays, the film's noise above all.

        Args:
            canvas: Painted on.
            change: `[1, 1, size, size]`, painted minus original window, as displayed.
            region: bool `[H, W]`, inside the window.
            feather: Pixels over which the change fades in from the region's edge; None = `FEATHER` pixels of the
                working resolution, but never so many that the middle of the region is not reached.
        """
        rows, columns = bounding_slices(region)
        size = change.shape[-1]
        width = round(FEATHER * self.side / size) if feather is None else feather
        distance = _soft_edge(region, rows, columns, width)
        if distance is not None and feather is None:
            width = min(width, int(distance.max()) // 2)
        for block, added in self._enlarged(change, rows, columns):
            if distance is not None:
                near = distance[block.start - rows.start : block.stop - rows.start]
                added *= np.minimum(near, width + 1) / np.float32(width + 1)
            display = np.clip(canvas.display(block, columns) + added, 0, 1)
            canvas.put(block, columns, display, region[block, columns])

    def _enlarged(self, square: Tensor, rows: slice, columns: slice) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """What `[1, 1, size, size]` is at these pixels of the image, some rows at a time."""
        matrix = resampling(square.shape[-1], self.side)
        down, across = self._part(matrix, rows, self.top, 0), self._part(matrix, columns, self.left, 0)
        sideways = square[0, 0] @ across.T
        for block in _blocks(rows):
            yield block, (down[block.start - rows.start : block.stop - rows.start] @ sideways).numpy()

    def _within(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """The window's rows and columns that lie in the image."""
        height, width = shape
        return (
            slice(max(self.top, 0), min(self.top + self.side, height)),
            slice(max(self.left, 0), min(self.left + self.side, width)),
        )

    @staticmethod
    def _part(matrix: Tensor, span: slice, start: int, axis: int) -> Tensor:
        """Of a resampling matrix what belongs to these pixels of the image."""
        return matrix.narrow(axis, span.start - start, span.stop - span.start)


def resampling(size: int, new: int) -> Tensor:
    """The matrix `[new, size]` of bilinear resampling, antialiased: triangles as wide as the coarser pixel."""
    scale = size / new
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(size, dtype=torch.float64) + 0.5
    matrix = torch.empty(new, size)
    for begin in range(0, new, ROWS):
        distance = (pixels - centres[begin : begin + ROWS, None]).abs() / max(scale, 1.0)
        triangle = (1 - distance).clamp_min(0)
        matrix[begin : begin + ROWS] = triangle / triangle.sum(1, keepdim=True)
    return matrix


def enlarge(square: Tensor, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A binary square `[S, S]` in the frame of the image that it was made from: bool `[H, W]` (see `from_square`)."""
    whole = NativeWindow.whole(shape)
    matrix = resampling(square.shape[-1], whole.side)
    down = matrix[-whole.top : shape[0] - whole.top]
    across = square @ matrix[-whole.left : shape[1] - whole.left].T
    region = np.zeros(shape, bool)  # rows that are not written take no memory
    for block in _blocks(slice(0, shape[0])):
        part = (down[block] @ across > 0.5).numpy()
        if part.any():
            region[block] = part
    return region


def bounding_slices(region: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around a region that is not empty."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _soft_edge(region: NDArray[np.bool_], rows: slice, columns: slice, width: int) -> NDArray[np.int32] | None:
    """Distance in pixels to the edge of the region, of the box around it; None where there is no edge.

    It counts the longer way of rows and columns, and the image's own border is no edge, as in `soft_edge`.
    """
    top, left = max(rows.start - 1, 0), max(columns.start - 1, 0)
    cut = region[top : rows.stop + 1, left : columns.stop + 1]
    if width == 0 or cut.all():
        return None
    step = 1 if cut.size < COARSE else 2
    distance = step * ndimage.distance_transform_cdt(cut[::step, ::step], "chessboard").astype(np.int32)
    distance = distance.repeat(step, 0).repeat(step, 1) if step > 1 else distance
    return distance[rows.start - top :, columns.start - left :][
        : rows.stop - rows.start, : columns.stop - columns.start
    ]


def _span(values: NDArray[np.bool_], begin: int, end: int, offset: int, axis: int) -> NDArray[np.bool_]:
    """Whether any of the window's rows (or columns) `begin` to `end` is set; `values` may hold a part of them."""
    low, high = max(begin + offset, 0), max(end + offset, 0)
    return np.asarray((values[low:high] if axis == 0 else values[:, low:high]).any(axis))


def _blocks(rows: slice) -> list[slice]:
    return [slice(start, min(start + ROWS, rows.stop)) for start in range(rows.start, rows.stop, ROWS)]
