"""From a batch of the datamodule to what the velocity field learns on: window, region, condition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.regions import draw_regions
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


def conditions_of(target: Tensor, finding: Tensor) -> Condition:
    """What is known of the region in which each image's drawn finding lies.

    The drawn finding is present. Findings that the image has besides may lie anywhere: unknown. Findings that it lacks
    are absent; findings it was never read for stay unknown. A healthy image lacks them all.

    Args:
        target: `[B, C]`; 1, 0 or NaN.
        finding: Index drawn for each image, int64 `[B]`; -1 = none: healthy, or diseased where nobody knows.
    """
    healthy = (finding < 0) & ~(target == 1).any(1)
    known = target.masked_fill(target == 1, torch.nan)
    drawn = torch.arange(target.shape[1], device=target.device) == finding[:, None]
    return Condition(known.masked_fill(drawn, 1.0).masked_fill(healthy[:, None], 0.0))


def draw_examples(
    batch: Mapping[str, Any],
    *,
    size: int,
    regions: Mapping[str, float],
    share: tuple[float, float],
    context: float,
    minimum: float,
    jitter: float = 0.0,
    generator: torch.Generator | None = None,
) -> Examples:
    """Draw a region for each image of a batch and cut out its window.

    Args:
        batch: `image [B, 1, S, S]` in [0, 1], `target [B, C]`, `map [B, 1, S, S]` and `finding [B]`.
        size: Working resolution.
        regions: Weight of each kind of region (see `draw_regions`).
        share: Range of the map's mass that an attention-shaped region holds.
        context: See `windows_around`; as are `minimum` and `jitter`.
        minimum: See `windows_around`.
        jitter: See `windows_around`.
        generator: Source of the draws, on the CPU.

    Raises:
        UserError: The batch has no maps.
    """
    if "map" not in batch:
        raise UserError("maps is not given to the datamodule; give it, the inpainter paints where attention maps point")
    image, finding = batch["image"], batch["finding"]
    region = draw_regions(batch["map"], finding >= 0, regions, share, generator)
    windows = windows_around(region, context=context, minimum=minimum, jitter=jitter, generator=generator)
    return Examples(
        image=2 * windows.crop(image, size) - 1,
        region=windows.crop_region(region, size),
        coordinates=windows.coordinates(size, image.device),
        condition=conditions_of(batch["target"], finding),
    )
