"""Reading images: PNG, JPEG and DICOM, told apart by their content."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cxrsynth.data.dicom import MAX_PIXELS, read_dicom
from cxrsynth.data.stored import PNG_KEY, StoredImage, from_description, plain_curve, write_png
from cxrsynth.errors import UserError

__all__ = ["StoredImage", "read_image", "read_stored", "write_png"]

READERS = 4  # threads that read an archive; decoders release the lock
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima", ""})
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # how PNG and JPEG begin
ROWS = 256  # decoded rows copied at a time: Pillow's own copies need three times the image


def read_image(path: str | Path) -> Tensor:
    """Read an image for display.

    Args:
        path: PNG (1 to 16 bits, any colour type), JPEG or DICOM.

    Returns:
        Float32 `[1, H, W]` in [0, 1], air dark, bone bright.

    Raises:
        UserError: The file is missing, damaged, not an image, or absurdly large.
    """
    return torch.from_numpy(read_stored(path).display())[None]


def read_stored(path: str | Path) -> StoredImage:
    """Read an image as its file stores it (see `read_image` for what can be read)."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error.strerror or error}") from error
    if head.startswith(PICTURES):
        return _read_picture(path)
    if head[128:132] == b"DICM" or (head and path.suffix.lower() in DICOM_SUFFIXES):
        return read_dicom(path)
    raise UserError(f"{path} is not a PNG, JPEG or DICOM image" if head else f"{path} is empty; leave it out")


def _read_picture(path: Path) -> StoredImage:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(
                    f"{path} claims {picture.width} x {picture.height} pixels; at most {MAX_PIXELS} can be read"
                )
            picture.load()
            stored = _grey(picture)
            text = picture.info.get(PNG_KEY)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise UserError(f"{path} is damaged ({error}); leave it out or fetch it again") from error
    if isinstance(text, str):
        return from_description(stored, text, path)
    if stored.dtype == np.uint8:
        return StoredImage(stored, plain_curve(8), 0, "MONOCHROME2", 8)
    bits = 12 if stored.max() < 2**12 else 16  # 12-bit detectors are often stored in 16 bits without being stretched
    return StoredImage(stored, plain_curve(bits), 0, "MONOCHROME2", bits)


def _grey(picture: Image.Image) -> np.ndarray:
    """One channel of integers. Colours become luma; an alpha channel is dropped, as NIH's RGBA files need it."""
    if picture.mode.startswith("I"):  # 16-bit PNG
        low, high = picture.getextrema()
        if not (low >= 0 and high <= 65535):  # type: ignore[operator]
            raise UserError(f"{picture.filename} has values beyond 16 bits")  # type: ignore[attr-defined]
        return _copied(picture, np.uint16)
    if picture.mode in ("1", "L"):
        return _copied(picture.convert("L"), np.uint8)
    colours = np.asarray(picture.convert("RGB"))
    if (colours == colours[..., :1]).all():
        return np.ascontiguousarray(colours[..., 0])
    return np.array(picture.convert("RGB").convert("L"))


def _copied(picture: Image.Image, dtype: type[np.unsignedinteger]) -> np.ndarray:
    """The pixels of a picture of one channel."""
    values = np.empty((picture.height, picture.width), dtype)
    for top in range(0, picture.height, ROWS):
        values[top : top + ROWS] = picture.crop((0, top, picture.width, min(top + ROWS, picture.height)))
    return values
