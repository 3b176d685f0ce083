"""From a batch of the datamodule to what the velocity field learns on: window, region, condition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.regions import draw_regions
from cxrsynth.inpainting.telling import Teller
from cxrsynth.inpainting.window import windows_around


@dataclass(frozen=True)
class Examples:
    """A training batch at the working resolution.

    Attributes:
        image: x1, `[B, 1, size, size]` in [-1, 1].
        region: `[B, 1, size, size]` in {0, 1}.
        coordinates: `[B, 2, size, size]`.
        condition: What the painted part shows.
    """

    image: Tensor
    region: Tensor
    coordinates: Tensor
    condition: Condition


def draw_examples(
    batch: Mapping[str, Any],
    teller: Teller,
    *,
    size: int,
    regions: Mapping[str, float],
    share: tuple[float, float],
    context: float,
    minimum: float,
    jitter: float = 0.0,
    generator: torch.Generator | None = None,
    epoch: int = 0,
    averages: Tensor | None = None,
) -> Examples:
    """Draw a region for each image of a batch and cut out its window.

    Args:
        batch: `image [B, 1, S, S]` in [0, 1], `target [B, C]`, `map [B, 1, S, S]`, `finding [B]`, perhaps
            `lungs [B, 1, S, S]`, and what the teller uses.
        teller: Says what is known of the region.
        size: Working resolution.
        regions: Weight of each kind of region (see `draw_regions`).
        share: Range of the map's mass that an attention-shaped region holds.
        context: See `windows_around`; as are `minimum` and `jitter`.
        minimum: See `windows_around`.
        jitter: See `windows_around`.
        generator: Source of the draws, on the CPU.
        epoch: See `Teller`.
        averages: Average map of each image's finding (see `draw_regions`).

    Raises:
        UserError: The batch has no maps.
    """
    if "map" not in batch:
        raise UserError("maps is not given to the datamodule; give it, the inpainter paints where attention maps point")
    image, finding = batch["image"], batch["finding"]
    region = draw_regions(batch["map"], finding >= 0, regions, share, generator, batch.get("lungs"), averages)
    windows = windows_around(region, context=context, minimum=minimum, jitter=jitter, generator=generator)
    return Examples(
        image=2 * windows.crop(image, size) - 1,
        region=windows.crop_region(region, size),
        coordinates=windows.coordinates(size, image.device),
        condition=teller(batch, region.flatten(1).all(1), epoch),
    )
