"""Small pieces that the renderers share: soft edges, smooth noise, the body's coordinates."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsynth.data.phantom.patient import Exposure

Array = NDArray[Any]  # float32 unless said otherwise


def soft_step(x: Array, width: float | Array) -> Array:
    """0 where `x < -width`, 1 where `x > width`, smooth between."""
    t = np.clip(x * (0.5 / width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def bell(x: Array, width: float) -> Array:
    """Gaussian of standard deviation `width` and height 1."""
    return np.exp(x * x * (-0.5 / width**2))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Array:
    """Noise `[H, W]` of about unit variance whose features are `1 / cells` of the field wide, at any size the same."""
    values = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    rows, columns = (_spline(n, cells) for n in shape)
    return rows @ values @ columns.T * np.float32(1.7)


def _spline(size: int, cells: int) -> Array:
    """Cubic B-spline weights `[size, cells + 3]` of equally spaced knots."""
    position = (np.arange(size) + 0.5) / size * cells + 1
    t = np.abs(position[:, None] - np.arange(cells + 3)[None])
    weights = np.where(t < 1, (4 - 6 * t**2 + 3 * t**3) / 6, np.clip(2 - t, 0, None) ** 3 / 6)
    return weights.astype(np.float32)


@dataclass(frozen=True)
class Frame:
    """Body coordinates of every pixel.

    Attributes:
        u: `[H, W]`, lateral, 0 on the midline, positive on the right of the image (the patient's left).
        v: `[H, W]`, down, 0 at the lungs' apex, 1 at their base.
        pixel: Width of a pixel in body units.
        size: Pixels along a side.
    """

    u: Array
    v: Array
    pixel: float
    size: int
    exposure: Exposure

    @classmethod
    def of(cls, exposure: Exposure, size: int) -> "Frame":
        """The frame of a film of `size` x `size` pixels."""
        axis = ((np.arange(size, dtype=np.float32) + 0.5) / size).astype(np.float32)
        x = (axis[None, :] - exposure.centre[0]) / exposure.scale
        y = (axis[:, None] - exposure.centre[1]) / exposure.scale
        c, s = np.float32(np.cos(exposure.tilt)), np.float32(np.sin(exposure.tilt))
        return cls(c * x + s * y, c * y - s * x + np.float32(0.5), 1 / (exposure.scale * size), size, exposure)

    def to_pixels(self, u: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
        """Body coordinates to pixel coordinates (column, row)."""
        e = self.exposure
        c, s = np.cos(e.tilt), np.sin(e.tilt)
        x, y = c * u - s * (v - 0.5), s * u + c * (v - 0.5)
        return (x * e.scale + e.centre[0]) * self.size - 0.5, (y * e.scale + e.centre[1]) * self.size - 0.5
