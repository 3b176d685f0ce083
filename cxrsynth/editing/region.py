"""Where to paint: a mask, a box, everywhere, a map carried over from another patient, or the finding's usual place."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.attention.region import MASS, region_from_map
from cxrsynth.attention.task import GLoRITask
from cxrsynth.data.labels import canonical
from cxrsynth.data.reading import read_stored
from cxrsynth.editing.native import Canvas, NativeWindow, StoredCanvas, enlarge
from cxrsynth.errors import UserError
from cxrsynth.inpainting.average import usual_place
from cxrsynth.inpainting.task import InpaintingTask
from cxrsynth.registration.transport import transport

SIDE = 128  # pixels of the square on which an average map becomes a region
MIN_NCC = 0.5  # as `SynthesisTask` has it

Bools = NDArray[np.bool_]


def from_mask(mask: str | Path | NDArray[Any] | Tensor, shape: tuple[int, int]) -> Bools:
    """The painted pixels of a mask: those above half of its largest value.

    Args:
        mask: An image file, or an array of the image's size.
        shape: Height and width of the image.

    Raises:
        UserError: Another size, or nothing marked.
    """
    if isinstance(mask, (str, Path)):
        name, values = f"mask {mask}", read_stored(mask).stored
    else:
        name, values = "mask", np.asarray(mask).squeeze()
    if values.shape != shape:
        raise UserError(
            f"{name} is {_size(values.shape)} pixels, the image {_size(shape)}; give one of the image's size"
        )
    largest = values.max()
    region = values.astype(bool) if values.dtype == bool else values > largest / 2
    if not largest > 0 or not region.any():
        raise UserError(f"{name} marks no pixel; paint what is to change in white")
    return region


def from_box(box: Sequence[int], shape: tuple[int, int]) -> Bools:
    """The pixels of a box.

    Args:
        box: x0, y0, x1, y1 in pixels of the image, half open.
        shape: Height and width of the image.

    Raises:
        UserError: Not such four numbers, an empty box, or one that leaves the image.
    """
    height, width = shape
    shown = ",".join(map(str, box))
    if len(box) != 4 or any(int(value) != value for value in box):
        raise UserError(f"box is {shown}; give four whole numbers x0,y0,x1,y1 in pixels of the image")
    left, top, right, bottom = (int(value) for value in box)
    if left >= right or top >= bottom:
        raise UserError(f"box {shown} is empty; x1 must lie beyond x0 and y1 beyond y0, the ends are not painted")
    if left < 0 or top < 0 or right > width or bottom > height:
        raise UserError(
            f"box {shown} leaves the image of {_size(shape)} pixels; give x from 0 to {width}, y from 0 to {height}"
        )
    region = np.zeros(shape, bool)
    region[top:bottom, left:right] = True
    return region


def from_average(task: InpaintingTask, finding: str, shape: tuple[int, int], seed: int) -> tuple[Bools, str]:
    """Where a finding may lie, after the inpainter's training images.

    Args:
        task: The inpainter.
        finding: As it names it.
        shape: Height and width of the image.
        seed: Of the place.

    Returns:
        The region and what it is: a `usual place` of a lesion's size, or, where the checkpoint does not know how large
        the finding is, all that holds it on `average`.

    Raises:
        UserError: The inpainter's checkpoint holds no such map.
    """
    which = list(task.hparams["findings"]).index(finding)
    average, area = task.average_maps.of(which), task.average_maps.area(which)
    if average is None:
        raise UserError(
            f"this inpainter holds no average map of {finding!r}; say where, with mask, box, map_from or full"
        )
    map = F.interpolate(average[None, None], (SIDE, SIDE), mode="bilinear")
    if area is None:
        return _shaped(map, shape), "average"
    place = usual_place(map[0, 0], area, torch.Generator().manual_seed(seed))
    return _shaped(place[None, None], shape, mass=1.0), "usual place"


def from_exemplar(
    exemplar: str | Path, canvas: Canvas, attention: GLoRITask, finding: str
) -> tuple[Bools, dict[str, float]]:
    """Where an exemplar shows a finding, carried into the image's anatomy by registration.

    Args:
        exemplar: File of an image with the finding.
        canvas: The image to be painted.
        attention: Looks at the exemplar.
        finding: Name of the finding, synonyms allowed.

    Returns:
        The region, and `ncc` and `min_jacobian` of the registration.

    Raises:
        UserError: The finding is unknown to `attention`, or the two images cannot be matched.
    """
    size = attention.hparams["image_size"]
    shown = StoredCanvas(read_stored(exemplar))
    squares = (NativeWindow.whole(image.shape).crop(image, size) for image in (shown, canvas))
    moving, fixed = (square.to(attention.device) for square in squares)
    which = attention.findings.index(canonical(finding, attention.findings))
    with torch.no_grad():
        maps = attention.maps(moving)
    map = F.interpolate(maps[:, which : which + 1], (size, size), mode="bilinear")
    carried = transport(map, moving, fixed)
    quality = {"ncc": float(carried.ncc[0]), "min_jacobian": float(carried.min_jacobian[0])}
    if not quality["ncc"] >= MIN_NCC:
        raise UserError(
            f"map_from {exemplar} cannot be matched with the image (correlation {quality['ncc']:.2f}, "
            f"needed {MIN_NCC}); choose an exemplar of the same view"
        )
    return _shaped(carried.map, canvas.shape), {key: round(value, 4) for key, value in quality.items()}


def _shaped(map: Tensor, shape: tuple[int, int], mass: float = MASS) -> Bools:
    square = region_from_map(map.clamp_min(0), mass).cpu()
    region = enlarge(square[0, 0], shape)
    if not region.any():
        raise UserError("the map's region lies outside the image; say where to paint, with mask or box")
    return region


def _size(shape: Sequence[int]) -> str:
    """Width by height, as viewers print it."""
    return " x ".join(map(str, torch.Size(shape)[::-1]))
