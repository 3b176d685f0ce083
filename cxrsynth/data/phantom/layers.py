"""A film in grey shares (0 = aerated lung, 1 = heart or liver), what filters see in it, and lungs as rectangles."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from cxrsynth.data.phantom.anatomy import Anatomy, Lung
from cxrsynth.data.phantom.shapes import Array

Measured = dict[str, float]
WORKING_SIZE = 128  # pixels along a side; every film is measured at this size
DEPTHS, LATERALS = 40, 24  # samples of an unrolled lung: apex to just below the base, mediastinum to chest wall


@dataclass(frozen=True)
class Layers:
    """Grey shares `[H, W]` of a film and what filters see in it."""

    grey: Array
    smooth: Array
    fine: Array
    texture: Array
    line: Array
    cloud: Array

    @classmethod
    def of(cls, image: Array, anatomy: Anatomy) -> "Layers":
        """Filter a film once for all measurements."""
        grey = (image - anatomy.lung_grey) / (anatomy.tissue_grey - anatomy.lung_grey)
        grey = np.clip(grey, -1.5, 2).astype(np.float32)
        g1, g2, g3 = (gaussian_filter(grey, s, truncate=3) for s in (0.7, 1.5, 3.0))
        return cls(
            grey,
            g2,
            g1 - g2,
            np.sqrt(gaussian_filter((g1 - g2) ** 2, 2.0, truncate=2.5)),
            g1 - g3,
            gaussian_filter(g3, 4.5),
        )


@dataclass(frozen=True)
class Unrolled:
    """One lung as rectangles `[DEPTHS, LATERALS]`, one for each layer."""

    grey: Array
    fine: Array
    texture: Array
    line: Array
    cloud: Array

    @classmethod
    def of(cls, layers: Layers, lung: Lung) -> "Unrolled":
        """Sample the layers from apex to just below the base and from mediastinum to chest wall."""
        top, bottom = lung.box[:2]
        rows = top + np.linspace(0.03, 1.12, DEPTHS) * (bottom - top)
        near = np.clip(rows, 0, WORKING_SIZE - 1)
        medial, wall = (np.interp(near, np.arange(WORKING_SIZE), edge) for edge in lung.walls)
        columns = medial[:, None] + np.linspace(0.04, 1.0, LATERALS) * (wall - medial)[:, None]
        at = [np.broadcast_to(rows[:, None], columns.shape), columns]
        parts = (layers.grey, layers.fine, layers.texture, layers.line, layers.cloud)
        return cls(*(map_coordinates(part, at, order=1, mode="nearest") for part in parts))
