"""Where the flow runs: on the pixels of a window, or on the latents of an autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrsynth.autoencoder.autoencoder import Autoencoder
from cxrsynth.autoencoder.checkpoint import load_autoencoder
from cxrsynth.encoder.weights import fingerprints
from cxrsynth.errors import UserError


@dataclass(frozen=True)
class Scene:
    """Windows as the flow sees them, at `size / reduction`.

    Attributes:
        state: x1, `[B, channels, h, w]`; outside the region it stays as it is.
        region: `[B, 1, h, w]` in {0, 1}.
        coordinates: `[B, 2, h, w]`.
        image: The windows, `[B, 1, size, size]` in [-1, 1].
    """

    state: Tensor
    region: Tensor
    coordinates: Tensor
    image: Tensor


class Space(Protocol):
    """How windows become the state of the flow, and its end a window again.

    Attributes:
        channels: Of the state.
        reduction: Pixels along the side of a position of the state.
        spread: Standard deviation of the state.
        settings: What a checkpoint keeps, so that `build_space` makes the same space from it.
    """

    channels: int
    reduction: int
    spread: float
    settings: dict[str, Any] | None

    def enter(self, image: Tensor, region: Tensor, coordinates: Tensor) -> Scene:
        """Windows `[B, 1, size, size]` in [-1, 1] with their regions and coordinates, as the flow sees them."""

    def leave(self, end: Tensor, scene: Scene) -> Tensor:
        """Painted windows `[B, 1, size, size]` in [-1, 1] from the flow's end, shaped like the scene's state."""


class Pixels(nn.Module):
    """The flow runs on the pixels themselves (see `Space`)."""

    channels: int = 1
    reduction: int = 1
    spread: float = 0.5  # of chest X-rays in [-1, 1]
    settings: dict[str, Any] | None = None

    def enter(self, image: Tensor, region: Tensor, coordinates: Tensor) -> Scene:
        """See `Space`."""
        return Scene(image, region, coordinates, image)

    def leave(self, end: Tensor, scene: Scene) -> Tensor:
        """See `Space`."""
        return end.clamp(-1, 1)


class Latents(nn.Module):
    """The flow runs on the latents of a frozen autoencoder (see `Space`).

    A latent sees pixels far around it. So that those outside the region do not tell what lies inside, they are those
    of the window with its region blanked; and so that the autoencoder's own error does not enter the image, what is
    painted is the window plus the *change* that its decoder sees from the window's own latents to the flow's end.

    Args:
        autoencoder: With a known scale.
        digests: SHA-256 of its file, by name.
    """

    spread: float = 1.0

    def __init__(self, autoencoder: Autoencoder, digests: Mapping[str, str]):
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.channels, self.reduction = autoencoder.latent_channels, autoencoder.reduction
        self.settings: dict[str, Any] | None = {"config": autoencoder.config, "sha256": dict(digests)}

    def train(self, mode: bool = True) -> "Latents":
        """It stays frozen."""
        return super().train(False)

    @torch.no_grad()
    def enter(self, image: Tensor, region: Tensor, coordinates: Tensor) -> Scene:
        """See `Space`; a latent is painted where any of its own pixels lies in the region."""
        side = self.reduction
        painted = F.max_pool2d(region, side)
        blanked = image.masked_fill(F.interpolate(painted, scale_factor=side) > 0, 0.0)
        whole, seen = self._encode(torch.cat([image, blanked])).chunk(2)
        return Scene(torch.where(painted > 0, whole, seen), painted, F.avg_pool2d(coordinates, side), image)

    @torch.no_grad()
    def leave(self, end: Tensor, scene: Scene) -> Tensor:
        """See `Space`."""
        own = self._encode(scene.image)
        made, known = self.autoencoder.decode(torch.cat([torch.where(scene.region > 0, end, own), own])).chunk(2)
        return (scene.image + 2 * (made - known)).clamp(-1, 1)

    def _encode(self, image: Tensor) -> Tensor:
        return self.autoencoder.encode((image + 1) / 2)


def build_space(latent: str | Mapping[str, Any] | None, bf16: bool = False) -> Pixels | Latents:
    """The space that plain settings ask for.

    Args:
        latent: None = pixels; else an autoencoder's file, or the arguments of `load_autoencoder` with it as `path`, or
            what a checkpoint keeps (`Space.settings`), whose weights come with the checkpoint.
        bf16: Whether the autoencoder computes in bfloat16.

    Raises:
        UserError: Other names, a file that cannot be read, or one whose scale is not known.
    """
    if latent is None:
        return Pixels()
    given: dict[str, Any] = {"path": latent} if isinstance(latent, str) else dict(latent)
    if set(given) == {"config", "sha256"}:
        return Latents(Autoencoder(**given["config"], bf16=bf16), given["sha256"])
    path = given.pop("path", None)
    if not isinstance(path, str) or not set(given) <= {"scale", "norm_groups"}:
        raise UserError(f"latent is {latent}; give an autoencoder's file, or path with scale and norm_groups")
    autoencoder = load_autoencoder(path, **given)
    if autoencoder.scale.isnan():
        raise UserError(
            f"latent {path} stores no scale of its latents; give latent.scale as its card says, or let AutoencoderTask "
            "measure it (pretrained)"
        )
    autoencoder.bf16 = bf16
    return Latents(autoencoder, fingerprints(path))
