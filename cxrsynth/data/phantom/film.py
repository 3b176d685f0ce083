"""From attenuation to grey and back: the film curve, blur and quantum noise."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from cxrsynth.data.phantom.patient import Exposure
from cxrsynth.data.phantom.shapes import Array


@dataclass(frozen=True)
class Film:
    """A logistic film curve (Hurter and Driffield): grey = black + (white - black) / (1 + exp(-gain (mu - level)))."""

    gain: float
    level: float
    black: float
    white: float

    @classmethod
    def of(cls, exposure: Exposure) -> "Film":
        """The film curve of an exposure."""
        return cls(exposure.gain, exposure.level, exposure.black, exposure.white)

    def grey(self, attenuation: Array) -> Array:
        """Grey values in [0, 1]; air is dark."""
        return (self.black + (self.white - self.black) / (1 + np.exp(-self.gain * (attenuation - self.level)))).astype(
            np.float32
        )

    def attenuation(self, grey: Array) -> Array:
        """Inverse of `grey`; values outside the curve's range are clipped just inside."""
        share = np.clip((grey - self.black) / (self.white - self.black), 0.004, 0.996)
        return (self.level + np.log(share / (1 - share)) / self.gain).astype(np.float32)


def expose(attenuation: Array, exposure: Exposure, rng: np.random.Generator) -> Array:
    """Blur, quantum noise (stronger behind dense tissue, where fewer photons arrive) and the film curve."""
    size = attenuation.shape[0]
    blurred = gaussian_filter(attenuation, exposure.blur * size, mode="nearest", truncate=3)
    grain = rng.standard_normal(attenuation.shape, dtype=np.float32)
    grain = gaussian_filter(grain, 0.45, truncate=2.5) * np.float32(1.6)
    strength = exposure.noise * (size / 128) ** 0.25 * np.exp(0.25 * (blurred - 1.2))
    return Film.of(exposure).grey(blurred + grain * strength)
