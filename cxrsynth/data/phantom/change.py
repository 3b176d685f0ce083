"""What a lesion does to a film, in attenuation."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, grey_opening

from cxrsynth.data.phantom.shapes import Array


@dataclass(frozen=True)
class Change:
    """The effect of one lesion, `[H, W]` each, 0 outside it.

    Attributes:
        fill: Share of the air in the ray that is replaced by tissue or fluid.
        add: Attenuation added (thin lines, solid bodies) or taken away (more air).
        erase: Share of the lung markings that is gone.
        place: Words for the report: "right lower lung".
    """

    fill: Array
    add: Array
    erase: Array
    place: str

    @property
    def mask(self) -> Array:
        """The pixels that the lesion changes visibly, bool."""
        return (self.fill > 0) | (np.abs(self.add) > 0) | (self.erase > 0)


def nothing(shape: tuple[int, ...]) -> Array:
    """An empty field."""
    return np.zeros(shape, dtype=np.float32)


def trim(field: Array, least: float) -> Array:
    """Cut a soft skirt off at `least` without a step, so that the mask ends where the eye sees the lesion end."""
    return (np.maximum(field - least, 0) / (1 - least)).astype(np.float32)


def apply_change(attenuation: Array, change: Change, tissue: Array | float) -> Array:
    """Attenuation with the lesion in it; equal to the input outside the lesion's mask.

    Args:
        attenuation: `[H, W]`.
        change: The lesion.
        tissue: Attenuation of a ray whose air is all replaced, `[H, W]` or one value.
    """
    size = attenuation.shape[0]
    result = attenuation
    if change.erase.any():
        reach = max(3, 2 * round(0.012 * size) + 1)
        plain = gaussian_filter(grey_opening(attenuation, size=(reach, reach)), 0.006 * size)
        result = result + change.erase * np.minimum(plain + 0.02 - result, 0)
    if change.fill.any():
        # Where the air of each ray is known, exactly that is filled; else what the smooth film lacks to be tissue.
        known = isinstance(tissue, np.ndarray)
        lack = tissue - (result if known else gaussian_filter(result, 0.01 * size))
        # Denser rays hide detail: ribs and vessels fade inside an opacity, the borders of organs do not come back.
        ribs = tissue - gaussian_filter(tissue, 0.02 * size) if known else result - gaussian_filter(result, 0.01 * size)
        result = result + change.fill * (np.maximum(lack, 0) - 0.45 * ribs)
    return np.where(change.mask, result + change.add, attenuation).astype(np.float32)
