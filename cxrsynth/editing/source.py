"""What is edited, as its file or array has it, ready to be painted on."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cxrsynth.data.reading import DICOM_SUFFIXES, PICTURES, StoredImage, read_stored
from cxrsynth.data.stored import plain_curve
from cxrsynth.editing.dicom import check_editable
from cxrsynth.editing.native import FloatCanvas, StoredCanvas
from cxrsynth.errors import UserError

Pixels = NDArray[Any] | Tensor


def open_source(
    image: str | Path | StoredImage | Pixels,
) -> tuple[StoredCanvas | FloatCanvas, StoredImage | None, Path | None]:
    """A canvas that may be painted on, its stored image and its file, where it has them."""
    if isinstance(image, (str, Path)):
        path = Path(image)
        stored = read_stored(path)
        if is_dicom(path):
            check_editable(path)
        else:
            _refuse_colour(path)
        values = stored.stored if stored.stored.flags.writeable else stored.stored.copy()
        return _stored(replace(stored, stored=values), path)
    if isinstance(image, StoredImage):
        return _stored(replace(image, stored=image.stored.copy()), None)
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim < 2 or array.size == 0 or array.size != math.prod(array.shape[-2:]):
        raise UserError(f"image has shape {list(array.shape)}; give [H, W]")
    array = array.reshape(array.shape[-2:]).copy()
    if array.dtype in (np.uint8, np.uint16):
        bits = 8 if array.dtype == np.uint8 else 12 if array.max() < 2**12 else 16
        return _stored(StoredImage(array, plain_curve(bits), 0, "MONOCHROME2", bits), None)
    if array.dtype.kind != "f" or not (array >= 0).all() or not (array <= 1).all():
        raise UserError(f"image is of type {array.dtype}; give uint8 or uint16 as stored, or floats from 0 to 1")
    return FloatCanvas(array), None, None


def _stored(image: StoredImage, path: Path | None) -> tuple[StoredCanvas, StoredImage, Path | None]:
    return StoredCanvas(image), image, path


def _refuse_colour(path: Path) -> None:
    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        if picture.mode not in ("1", "L", "LA", "I", "I;16", "I;16B"):
            colours = np.asarray(picture.convert("RGB"))
            if not (colours == colours[..., :1]).all():
                raise UserError(f"image {path} is in colour; only grey images can be edited, so convert it first")


def check_suffix(path: str | Path, source: Path | None) -> None:
    """Raises `UserError` unless a result of this source can be written under this name."""
    suffix = Path(path).suffix.lower()
    if suffix != ".png" and suffix not in DICOM_SUFFIXES:
        raise UserError(f"out is {path}; its name must end in .png, or for a DICOM image in .dcm")
    if suffix != ".png" and (source is None or not is_dicom(source)):
        raise UserError(f"out is {path}, but the image is no DICOM file; give a name that ends in .png")


def is_dicom(path: Path) -> bool:
    """Whether a file that can be read is DICOM rather than a picture."""
    with open(path, "rb") as file:
        return not file.read(8).startswith(PICTURES)
