"""An image as its file stores it, and the way between stored values and what is displayed."""

import base64
import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrsynth.errors import UserError
from cxrsynth.files import write_atomic

DISPLAY_LEVELS = 65535  # curves are kept to this precision, so that they survive being written and read
PNG_KEY = "cxrsynth-display"


@dataclass(frozen=True)
class StoredImage:
    """The stored values of an image and the curve that displays them.

    Attributes:
        stored: Integers `[H, W]` (uint8, uint16 or int16), exactly as in the file.
        curve: Float32 `[K]` in [0, 1]: entry i is how the stored value `minimum + i` is displayed (0 air, 1 bone). It
            holds all between file and screen: rescale, modality LUT, VOI LUT or window, MONOCHROME1's inversion.
        minimum: The stored value of the curve's first entry.
        photometric: "MONOCHROME1" (stored high = dark) or "MONOCHROME2".
        bits: Bits stored, 1 to 16.
    """

    stored: NDArray[Any]
    curve: NDArray[np.float32]
    minimum: int
    photometric: str
    bits: int

    def __post_init__(self) -> None:
        assert self.stored.ndim == 2
        assert self.minimum <= self.stored.min()
        assert self.stored.max() < self.minimum + len(self.curve)

    def display(self) -> NDArray[np.float32]:
        """Float32 `[H, W]` in [0, 1], air dark."""
        return self.curve[self.stored.astype(np.int32) - self.minimum]

    def to_stored(self, display: NDArray[np.floating]) -> NDArray[Any]:
        """The stored values whose display is nearest; of several, the one nearest to the middle of the curve."""
        index = np.arange(len(self.curve))
        middle = index[(self.curve > 0) & (self.curve < 1)]
        centre = middle.mean() if len(middle) else index.mean()
        order = np.lexsort((np.abs(index - centre), self.curve))
        levels, first = np.unique(self.curve[order], return_index=True)
        above = (
            np.searchsorted(levels, display).clip(1, len(levels) - 1)
            if len(levels) > 1
            else np.zeros(display.shape, int)
        )
        below = np.maximum(above - 1, 0)
        nearest = np.where(display - levels[below] < levels[above] - display, below, above)
        return (order[first[nearest]] + self.minimum).astype(self.stored.dtype)

    def paste(self, painted: Any, region: Any) -> "StoredImage":
        """Put painted values into a region. Outside it every stored value stays as it is.

        Args:
            painted: Display values `[H, W]`, array or tensor; looked at inside the region only.
            region: Bool `[H, W]`, True = paint.
        """
        display, inside = np.asarray(painted, np.float32), np.asarray(region, bool)
        assert display.shape == inside.shape == self.stored.shape, (display.shape, inside.shape, self.stored.shape)
        stored = self.stored.copy()
        stored[inside] = self.to_stored(np.clip(display[inside], 0, 1))
        return replace(self, stored=stored)

    def save_png(self, path: str | Path) -> Path:
        """Write a greyscale PNG of the native size: 8-bit for at most 8 bits stored, else 16-bit.

        Values are stored as they are; signed ones (some DICOM) are raised by 32768. The display curve goes into a text
        chunk whenever a plain reading would show the image otherwise, and `read_stored` honours it.
        """
        deep = self.bits > 8
        shift = 32768 if self.stored.dtype == np.int16 else 0
        kind = np.uint16 if deep else np.uint8
        values = (self.stored.astype(np.int32) + shift if shift else self.stored).astype(kind, copy=False)
        info = PngInfo()
        if deep or len(self.curve) != 256 or not np.array_equal(self.curve, plain_curve(8)):
            info.add_text(PNG_KEY, self._describe(shift), zip=True)
        image = Image.fromarray(values)
        return write_atomic(path, lambda file: image.save(file, "PNG", pnginfo=info))

    def _describe(self, shift: int) -> str:
        steps = np.diff(np.round(self.curve * DISPLAY_LEVELS).astype(np.int32), prepend=0).astype("<i4")
        curve = base64.b64encode(zlib.compress(steps.tobytes(), 9)).decode()
        return json.dumps(
            {"photometric": self.photometric, "bits": self.bits, "minimum": self.minimum + shift, "curve": curve}
        )


def write_png(path: str | Path, values: Any) -> Path:
    """Write a greyscale PNG atomically.

    Args:
        path: The file.
        values: `[H, W]`, array or tensor: uint8 or uint16 as they are, float in [0, 1] as 8 bits.
    """
    array = np.asarray(values)
    if array.dtype.kind == "f":
        array = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(array)
    return write_atomic(path, lambda file: image.save(file, "PNG"))


def plain_curve(bits: int) -> NDArray[np.float32]:
    """The curve from 0 = dark to `2**bits - 1` = bright."""
    return quantise(np.linspace(0, 1, 2**bits))


def quantise(curve: NDArray[np.floating]) -> NDArray[np.float32]:
    """A curve clipped to [0, 1] and rounded to `DISPLAY_LEVELS`."""
    return (np.round(np.clip(curve, 0, 1) * DISPLAY_LEVELS) / DISPLAY_LEVELS).astype(np.float32)


def from_description(stored: NDArray[Any], text: str, path: Path) -> StoredImage:
    """A PNG's values with the display curve that `save_png` put beside them."""
    try:
        fields = json.loads(text)
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode(fields["curve"]), 4 * (DISPLAY_LEVELS + 1))
        curve = (np.cumsum(np.frombuffer(raw, "<i4")) / DISPLAY_LEVELS).astype(np.float32)
        plausible = len(curve) > 0 and 0 <= curve.min() <= curve.max() <= 1 and 1 <= int(fields["bits"]) <= 16
        if not plausible or fields["photometric"] not in ("MONOCHROME1", "MONOCHROME2"):
            raise ValueError("values out of range")
        image = StoredImage(stored, curve, int(fields["minimum"]), str(fields["photometric"]), int(fields["bits"]))
    except (KeyError, TypeError, ValueError, OverflowError, zlib.error, AssertionError) as error:
        raise UserError(f"{path} has a damaged {PNG_KEY!r} text; make the image anew") from error
    return image
