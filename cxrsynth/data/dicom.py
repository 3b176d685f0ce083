"""Reading DICOM images. The file is untrusted: no size field is believed, and every fault is one clear sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels import apply_modality_lut, apply_voi
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from cxrsynth.data.codestream import codestream_shape
from cxrsynth.data.stored import StoredImage, quantise
from cxrsynth.errors import UserError, first_line

DECODERS = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
MAX_PIXELS = 100_000_000  # the largest detectors have about 25 million
ROWS = 64  # rows counted at a time: counting needs sixteen bytes a pixel


def read_dicom(path: Path) -> StoredImage:
    """Read a single-frame DICOM image with its display curve.

    The curve is: rescale or modality LUT, then the first VOI LUT, else the first window, else the range of the values;
    MONOCHROME1 is turned over. A window that leaves fewer than 2 % of the pixels between black and white is ignored.

    Raises:
        UserError: The file is damaged, has no pixels, several frames, more than 16 bits or an absurd size.
    """
    dataset = read_header(path)
    if "PixelData" not in dataset:
        raise UserError(f"{path} is a DICOM file without pixels; leave it out")
    try:
        _check_size(dataset, path)
        pixels = dataset.pixel_array
    except UserError:
        raise
    except Exception as error:  # each decoder raises its own kinds
        name = getattr(dataset.file_meta.TransferSyntaxUID, "name", "its transfer syntax")
        if "missing dependencies" in str(error) or isinstance(error, NotImplementedError):
            raise UserError(f"{path}: no decoder of {name} is installed; pip install {DECODERS}") from error
        raise UserError(f"{path}: the pixels cannot be decoded ({first_line(error)}); the file is damaged") from error
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        pixels = np.round(pixels @ np.array([0.299, 0.587, 0.114])).astype(pixels.dtype)  # ITU-R BT.601 luma
    if pixels.ndim != 2 or pixels.size == 0:
        raise UserError(f"{path}: pixels of shape {pixels.shape}; only single grey images can be read")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS or pixels.dtype.itemsize > 2:
        raise UserError(
            f"{path}: {pixels.shape} pixels of type {pixels.dtype}; only up to 16 bits and {MAX_PIXELS} pixels"
        )
    return _with_curve(dataset, pixels, path)


def read_header(path: Path, pixels: bool = True) -> pydicom.Dataset:
    """Read a DICOM data set, also one without the file header ("forced").

    Raises:
        UserError: The file is not DICOM or is cut off.
    """
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
        _ = [element.VR for element in dataset]  # parses every element now, so that damage shows here
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise UserError(f"{path} cannot be read as DICOM ({first_line(error)}); the file is damaged") from error
    if "Rows" not in dataset and "SOPClassUID" not in dataset:
        raise UserError(f"{path} is not a DICOM image, or is cut off; images are PNG, JPEG or DICOM")
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _check_size(dataset: pydicom.Dataset, path: Path) -> None:
    rows, columns, frames = (int(dataset.get(name) or 0) for name in ("Rows", "Columns", "NumberOfFrames"))
    if rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise UserError(f"{path} claims {rows} x {columns} pixels; 1 to {MAX_PIXELS} can be read")
    if frames > 1:
        raise UserError(f"{path} has {frames} frames; give single images")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != RLELossless:
        inner = codestream_shape(get_frame(dataset.PixelData, 0, number_of_frames=1))
        if inner != (rows, columns):
            raise UserError(
                f"{path} claims {rows} x {columns} pixels, its compressed image {inner}; the file is damaged"
            )


def _with_curve(dataset: pydicom.Dataset, pixels: NDArray[Any], path: Path) -> StoredImage:
    stated = dataset.get("BitsStored")
    bits = min(stated if isinstance(stated, int) and stated > 0 else 16, 8 * pixels.dtype.itemsize)
    signed = bool(pixels.dtype.kind == "i")
    # a file may use more than it declares (overlays in high bits): the curve covers what is there, too
    low = min(-(2 ** (bits - 1)) if signed else 0, int(pixels.min()))
    high = max(2 ** (bits - int(signed)) - 1, int(pixels.max()))
    values = np.arange(low, high + 1).astype(pixels.dtype)
    present = np.zeros(len(values), np.int64)
    for row in range(0, len(pixels), ROWS):
        present += np.bincount(pixels[row : row + ROWS].astype(np.int32).ravel() - low, minlength=len(values))
    try:
        modality = np.asarray(apply_modality_lut(values, dataset), np.float64)
        curve = _window(dataset, values, modality, present)
    except Exception as error:  # look-up tables are untrusted, too
        raise UserError(f"{path}: its rescale, window or look-up table is damaged ({first_line(error)})") from error
    if not np.isfinite(curve).all():
        raise UserError(f"{path}: its rescale or window gives values that are not finite; the file is damaged")
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if photometric == "MONOCHROME1":
        curve = 1 - curve
    else:
        photometric = "MONOCHROME2"
    bits = max(bits, high.bit_length())
    if pixels.dtype == np.int8:
        pixels = pixels.astype(np.int16)
    return StoredImage(np.ascontiguousarray(pixels), quantise(curve), low, photometric, 16 if signed else bits)


def _window(
    dataset: pydicom.Dataset, values: NDArray[Any], modality: NDArray[np.float64], present: NDArray[np.int64]
) -> NDArray[np.float64]:
    used = present > 0
    if dataset.get("VOILUTSequence"):
        table = np.asarray(apply_voi(modality.astype(np.int32), dataset), np.float64)
        return (table - table.min()) / max(table.max() - table.min(), 1)
    low, high = modality[used].min(), modality[used].max()
    if values.dtype.itemsize == 1:
        low, high = modality.min(), modality.max()  # 8 bits have been windowed already
    whole = (modality - low) / max(high - low, 1)
    if "WindowCenter" not in dataset or "WindowWidth" not in dataset:
        return whole
    centre, width = (float(np.atleast_1d(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    curve = window_curve(modality, centre, width, str(dataset.get("VOILUTFunction", "LINEAR")))
    between = present[(curve > 0) & (curve < 1)].sum() / present.sum()
    return curve if width > 1 and between >= 0.02 else whole


def window_curve(
    values: NDArray[np.float64], centre: float, width: float, function: str = "LINEAR"
) -> NDArray[np.float64]:
    """Values to [0, 1] by a window, as DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3 define it.

    Args:
        values: Modality values.
        centre: Window centre.
        width: Window width.
        function: LINEAR, LINEAR_EXACT or SIGMOID.
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    return np.clip((values - (centre - 0.5)) / max(width - 1, 1) + 0.5, 0, 1)
