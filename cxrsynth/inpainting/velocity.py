"""What every velocity field shares: how it is called, and what it need not learn."""

from typing import Protocol

from torch import Tensor

from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.embedder import Embedded


class VelocityField(Protocol):
    """Anything that gives `v(x_t, t, r, c)`, 0 outside the region."""

    def __call__(
        self, x: Tensor, t: Tensor, region: Tensor, coordinates: Tensor, condition: Condition | Embedded
    ) -> Tensor:
        """Velocity at `x`.

        Args:
            x: x_t, float32 `[B, Z, H, W]`; Z = 1 for pixels, else the channels of the latents (see `Space`).
            t: Times in [0, 1], `[B]`.
            region: r in {0, 1}, `[B, 1, H, W]`.
            coordinates: Where each pixel lies in the chest, `[B, 2, H, W]` in [-1, 1] (see `Windows.coordinates`).
            condition: For B images, as it is or embedded.

        Returns:
            float32 `[B, Z, H, W]`.
        """

    def embed(self, condition: Condition) -> Condition | Embedded:
        """The condition in the form that does not change with x and t, so that a sampler computes it once."""


def preconditioning(t: Tensor, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    """What of the velocity is known from x_t alone, so that the network need not learn to copy noise.

    For x1 of mean 0 and variance s^2 and standard normal noise z, the best linear guess of `x1 - z` from
    `x_t = (1 - t) z + t x1` is `skip * x_t`, and what it leaves unexplained has the standard deviation `scale`: with
    `D = (1 - t)^2 + t^2 s^2`, `skip = (t s^2 - (1 - t)) / D` and `scale = s / sqrt(D)` (the idea of Karras et al. 2022,
    arXiv 2206.00364, section 5, on the straight path).

    Args:
        t: Times in [0, 1], any shape.
        spread: s; the default is that of chest X-rays in [-1, 1].

    Returns:
        `skip` and `scale`, shaped like `t`.
    """
    variance = spread**2
    total = (1 - t) ** 2 + t**2 * variance
    return (t * variance - (1 - t)) / total, spread / total.sqrt()
