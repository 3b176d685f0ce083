"""A small segmenter of lungs and heart, and the weights that come with the package."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from monai.networks.nets import UNet
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cxrsynth.anatomy.masks import chest_field, tidy
from cxrsynth.data.geometry import from_square, to_square
from cxrsynth.errors import UserError
from cxrsynth.files import write_bytes

SHIPPED = Path(__file__).with_name("weights") / "segmenter.safetensors"
PARTS = {"lungs": 2, "heart": 1}
"""Connected parts that each structure may have."""
LIMITS = ("none", "chest", "lungs")


class Segmenter(nn.Module):
    """A residual U-Net (MONAI) on images whose grey levels are standardised one by one.

    Args:
        structures: What the outputs show, in this order; of "lungs" and "heart".
        size: Side in pixels of the squares it works on.
        channels: Width of each level; the first level has half the resolution.

    Raises:
        UserError: An unknown structure, or a size that the levels cannot halve.
    """

    def __init__(
        self,
        structures: Sequence[str] = ("lungs", "heart"),
        size: int = 128,
        channels: Sequence[int] = (16, 32, 64, 96),
    ):
        super().__init__()
        if not structures or not set(structures) <= set(PARTS):
            raise UserError(f"structures is {list(structures)}; choose from {', '.join(PARTS)}")
        if size % 2 ** len(channels):
            raise UserError(f"size is {size}; with {len(channels)} levels give a multiple of {2 ** len(channels)}")
        self.structures, self.size = list(structures), size
        self.config = {"structures": list(structures), "size": size, "channels": list(channels)}
        self.network = UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=len(structures),
            channels=[*channels, channels[-1]],
            strides=[2] * len(channels),
            num_res_units=2,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, C, S, S]` of square images `[B, 1, S, S]` in [0, 1]."""
        spread, mean = torch.std_mean(image, (1, 2, 3), keepdim=True)
        return self.network((image - mean) / spread.clamp_min(1e-3))


def save_segmenter(segmenter: Segmenter, path: str | Path) -> Path:
    """Write a segmenter as safetensors with its sizes, for `load_segmenter`."""
    weights = {name: value.detach().cpu().contiguous() for name, value in segmenter.state_dict().items()}
    return write_bytes(path, save(weights, {"segmenter": json.dumps(segmenter.config)}))


@cache
def load_segmenter(path: str | Path = SHIPPED) -> Segmenter:
    """Read a segmenter; without an argument the one that comes with the package (its card lies beside it).

    Args:
        path: What `save_segmenter` wrote.

    Returns:
        The segmenter on the CPU in eval mode; the same object for the same path.

    Raises:
        UserError: The file is missing or not a segmenter.
    """
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["segmenter"])
            segmenter = Segmenter(**config)
            segmenter.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        if not all(weight.isfinite().all() for weight in segmenter.state_dict().values()):
            raise UserError("its weights are not finite")
    except Exception as error:  # its settings are untrusted, too
        raise UserError(
            f"cannot read a segmenter from {path}: {error}; give a file that save_segmenter wrote"
        ) from error
    return segmenter.eval().requires_grad_(False)


@torch.no_grad()
def segment(image: Tensor, structure: str = "lungs", segmenter: Segmenter | None = None) -> Tensor:
    """Where an organ is.

    The image is padded to a square and resized for the network, its probabilities are brought back to the image's own
    size and cut at a half; the largest part (heart) or two (lungs) are kept and their holes filled.

    What the shipped segmenter calls heart is the simulated films' column from neck to abdomen that holds the heart. It
    has seen no heart of a real film: do not measure one with it.

    Args:
        image: `[B, 1, H, W]` in [0, 1], air dark, of any size.
        structure: "lungs" (both together) or, where the segmenter knows it, "heart".
        segmenter: None = the one that comes with the package.

    Returns:
        bool `[B, 1, H, W]` on the image's device; empty where nothing is found.

    Raises:
        UserError: A shape other than `[B, 1, H, W]`, or a structure that the segmenter does not know.
    """
    segmenter = segmenter or load_segmenter()
    if image.ndim != 4 or image.shape[1] != 1:
        raise UserError(f"image has shape {tuple(image.shape)}; give [B, 1, H, W] in [0, 1]")
    if structure not in segmenter.structures:
        raise UserError(f"structure is {structure!r}; this segmenter knows {', '.join(segmenter.structures)}")
    segmenter.to(image.device)
    logits = segmenter(to_square(image.float(), segmenter.size))
    channel = segmenter.structures.index(structure)
    probability = from_square(logits[:, channel : channel + 1].sigmoid(), (image.shape[-2], image.shape[-1]))
    return tidy(probability > 0.5, PARTS[structure])


def allowed(image: Tensor, limit: str) -> Tensor | None:
    """Where findings may lie.

    Args:
        image: `[B, 1, H, W]` in [0, 1], air dark.
        limit: "chest" (lungs, mediastinum and what lies between), "lungs", or "none" (anywhere).

    Returns:
        bool `[B, 1, H, W]`, empty where no lungs are found; None = anywhere.

    Raises:
        UserError: Another `limit`, or an image of another shape.
    """
    if limit not in LIMITS:
        raise UserError(f"limit is {limit!r}; choose one of {', '.join(LIMITS)}")
    if limit == "none":
        return None
    lungs = segment(image)
    return lungs if limit == "lungs" else chest_field(lungs)
