"""Where the organs are on a film, known or estimated: all that a lesion needs to find its place."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from cxrsynth.data.phantom.shapes import Array


@dataclass(frozen=True)
class Lung:
    """Coordinates inside one lung field.

    Attributes:
        field: `[H, W]` in [0, 1], the visible lung.
        lateral: `[H, W]`, 0 at the mediastinum to 1 at the chest wall, by the lung's extent in each row.
        depth: `[H, W]`, 0 at the apex to 1 at the lowest point.
        walls: `[2, H]`, column of the mediastinal and of the lateral border in each row.
        box: Top, bottom, medial column and lateral column, pixels.
        side: "right" (image left) or "left".
    """

    field: Array
    lateral: Array
    depth: Array
    walls: Array
    box: tuple[float, float, float, float]
    side: str

    @property
    def sign(self) -> int:
        """Direction of the chest wall along the columns: -1 for the right lung, which is on the left of the image."""
        return -1 if self.side == "right" else 1

    def at(self, lateral: float, depth: float) -> tuple[float, float]:
        """Pixel (column, row) of a place inside the lung, `lateral` counted between the lung's walls in that row."""
        top, bottom, medial, wall = self.box
        row = top + depth * (bottom - top)
        line = self.field[int(np.clip(round(row), 0, len(self.field) - 1))]
        columns = np.flatnonzero(line > 0.5)
        if len(columns):
            medial, wall = (columns[-1], columns[0]) if self.side == "right" else (columns[0], columns[-1])
        return float(medial + lateral * (wall - medial)), float(row)


@dataclass(frozen=True)
class Anatomy:
    """The organs of one film.

    Attributes:
        lungs: Right lung (image left), left lung.
        heart: `[H, W]` in [0, 1], silhouette of heart and great vessels.
        lung_grey: Grey of aerated lung.
        tissue_grey: Grey of heart or liver: what air turns into when it is replaced.
    """

    lungs: tuple[Lung, Lung]
    heart: Array
    lung_grey: float
    tissue_grey: float

    @classmethod
    def of(cls, lungs: Array, heart: Array, image: Array) -> "Anatomy":
        """From lung fields `[2, H, W]`, a heart `[H, W]` and the film they belong to."""
        inside = lungs.sum(0) > 0.8
        core = image[inside] if inside.any() else image.ravel()
        solid = image[heart > 0.7] if (heart > 0.7).any() else image.ravel()
        right, left = (_lung(field, side) for field, side in zip(lungs, ("right", "left"), strict=True))
        lung_grey, tissue = float(np.percentile(core, 35)), float(np.percentile(solid, 60))
        return cls((right, left), heart, lung_grey, max(tissue, lung_grey + 0.08))


def _lung(field: Array, side: str) -> Lung:
    rows = np.flatnonzero((field > 0.5).any(1))
    columns = np.flatnonzero((field > 0.5).any(0))
    height, width = field.shape
    if not len(rows):  # a lung that is wholly opaque still needs a place
        rows = np.arange(int(0.2 * height), int(0.8 * height))
        columns = np.arange(int(0.15 * width), int(0.45 * width)) + (0 if side == "right" else int(0.4 * width))
    top, bottom = float(rows[0]), float(rows[-1])
    first, last = np.full(height, columns[0], float), np.full(height, columns[-1], float)
    for row in rows:
        line = np.flatnonzero(field[row] > 0.5)
        if len(line):
            first[row], last[row] = line[0], line[-1]
    first, last = (gaussian_filter1d(edge, 0.01 * height) for edge in (first, last))
    x = np.arange(width, dtype=np.float32)[None]
    extent = np.maximum(last - first, 2)[:, None]
    share = (x - first[:, None]) / extent
    lateral = 1 - share if side == "right" else share
    walls = np.stack([last, first] if side == "right" else [first, last]).astype(np.float32)
    depth = np.broadcast_to(((np.arange(height) - top) / max(bottom - top, 1))[:, None], field.shape)
    medial, wall = (columns[-1], columns[0]) if side == "right" else (columns[0], columns[-1])
    box = (top, bottom, float(medial), float(wall))
    return Lung(field, lateral.astype(np.float32), depth.astype(np.float32), walls, box, side)
