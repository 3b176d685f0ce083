"""Regions as boxes and outlines, in the forms that detectors are trained on: COCO and YOLO."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_EIGHT = np.ones((3, 3), dtype=int)  # pixels that touch at a corner belong together, as in `attention.region`


@dataclass(frozen=True)
class Part:
    """A connected part of a region.

    Attributes:
        box: `(x_min, y_min, x_max, y_max)` in pixels; the maxima are exclusive.
        mask: bool `[y_max - y_min, x_max - x_min]`, the part inside its box.
        shape: Height and width of the image.
    """

    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    shape: tuple[int, int]

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.mask.sum())

    def run_lengths(self) -> list[int]:
        """COCO's uncompressed code: lengths of the runs of 0, 1, 0, ... down one column after the other."""
        whole = np.zeros(self.shape, bool)
        x_min, y_min, x_max, y_max = self.box
        whole[y_min:y_max, x_min:x_max] = self.mask
        values = whole.ravel(order="F")
        turns = np.flatnonzero(values[1:] != values[:-1]) + 1
        lengths = np.diff(np.concatenate([[0], turns, [values.size]])).tolist()
        return [0, *lengths] if values[0] else lengths

    def polygon(self) -> list[tuple[float, float]]:
        """The outer outline in pixels, through the middles of the pixels' sides; holes are filled."""
        padded = np.pad(ndimage.binary_fill_holes(self.mask), 1).astype(float)
        lines = [np.asarray(line) for line in contourpy.contour_generator(z=padded).lines(0.5)]
        # a part that hangs together by corners alone may fall into several lines; the longest is its outline
        outline = max(lines, key=lambda line: len(line))[:-1]
        # the centre of pixel i lies at i + 0.5, and the padding moved it by one
        moved = outline - 0.5 + np.array(self.box[:2])
        return [(float(x), float(y)) for x, y in moved]


def parts_of(region: NDArray[np.bool_]) -> list[Part]:
    """The connected parts of a region `[H, W]`, the upper left first."""
    labels, _ = ndimage.label(region, structure=_EIGHT)
    parts = []
    for index, slices in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = slices
        box = (columns.start, rows.start, columns.stop, rows.stop)
        parts.append(Part(box, labels[slices] == index, (region.shape[0], region.shape[1])))
    return parts


def coco_image(number: int, path: str, shape: tuple[int, int]) -> dict[str, Any]:
    """An entry of COCO's `images`."""
    return {"id": number, "file_name": path, "height": shape[0], "width": shape[1]}


def coco_annotation(number: int, image: int, category: int, part: Part) -> dict[str, Any]:
    """An entry of COCO's `annotations`: box `[x, y, width, height]` and exact run-length segmentation."""
    x_min, y_min, x_max, y_max = part.box
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
        "area": part.area,
        "iscrowd": 0,
        "segmentation": {"counts": part.run_lengths(), "size": list(part.shape)},
    }


def yolo_box(category: int, part: Part) -> str:
    """A line of a YOLO label file: class, then the box's centre, width and height in parts of the image."""
    height, width = part.shape
    x_min, y_min, x_max, y_max = part.box
    values = ((x_min + x_max) / 2 / width, (y_min + y_max) / 2 / height, (x_max - x_min) / width)
    return _line(category, [*values, (y_max - y_min) / height])


def yolo_polygon(category: int, part: Part) -> str:
    """A line of a YOLO segmentation file: class, then x and y of each corner in parts of the image."""
    height, width = part.shape
    return _line(category, [value for x, y in part.polygon() for value in (x / width, y / height)])


def _line(category: int, values: Sequence[float]) -> str:
    return " ".join([str(category), *(f"{value:.6f}" for value in values)])
