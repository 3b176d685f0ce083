"""Paint films of any sizes, each in the window around its region, in one forward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.task import InpaintingTask
from cxrsynth.inpainting.window import windows_around
from cxrsynth.synthesis.carrying import padded
from cxrsynth.synthesis.clock import Clock


def paint_films(
    inpainter: InpaintingTask,
    films: Sequence[Tensor],
    regions: Sequence[Tensor],
    told: Sequence[Condition],
    seeds: Sequence[int],
    *,
    feather: float,
    together: int = 1,
    device: torch.device | str = "cpu",
    clock: Clock | None = None,
    **sampling: Any,
) -> list[Tensor]:
    """The films with what was told painted into their regions; outside them not a bit is another.

    Args:
        inpainter: Paints at its working resolution.
        films: Each `[1, 1, H, W]` in [0, 1].
        regions: Each `[1, 1, H, W]` in {0, 1}.
        told: One condition a film.
        seeds: One a film.
        feather: Width over which the change fades in inside the region, in pixels of the working resolution.
        together: Fill the forward up to this many windows. The last bits of a film depend on how many there are.
        device: Where the inpainter is.
        clock: Times the forward as "sampling".
        sampling: As `cxrsynth.inpainting.paint` takes it: solver, steps, warp, guidance, baseline.
    """
    settings = inpainter.hparams
    size = settings["size"]
    windows = [windows_around(r, context=settings["context"], minimum=settings["minimum"]) for r in regions]
    crops = torch.cat([w.crop(film, size) for w, film in zip(windows, films, strict=True)])
    inside = torch.cat([w.crop_region(r, size) for w, r in zip(windows, regions, strict=True)])
    coordinates = torch.cat([w.coordinates(size) for w in windows])
    crops, inside, coordinates = (padded(x, together) for x in (crops, inside, coordinates))
    spare = len(crops) - len(told)
    with (clock or Clock())("sampling"):
        painted = inpainter.paint(
            crops.to(device),
            inside.to(device),
            coordinates.to(device),
            Condition.cat([*told, *[told[-1]] * spare]).to(device),
            seeds=[*seeds, *[0] * spare],
            **sampling,
        ).cpu()
    results = []
    for i, (window, film, region) in enumerate(zip(windows, films, regions, strict=True)):
        ((_, _, side),) = window.boxes
        results.append(window.paste(painted[i : i + 1], film, region, round(feather * side / size)))
    return results
