"""A painted image as a DICOM file that says what it is and carries no identity."""

import hashlib
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from cxrsynth import __version__
from cxrsynth.data.dicom import read_header
from cxrsynth.data.stored import StoredImage
from cxrsynth.errors import UserError
from cxrsynth.files import write_atomic

PIXEL_DATA = 0x7FE0, 0x0010
# What may be known of the film. Everything else, private elements too, stays behind: an identity may hide anywhere.
KEPT = (
    *("Modality", "BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality", "PatientOrientation"),
    *("PatientSex", "PatientAge", "PresentationIntentType"),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"),
    *("PixelSpacingCalibrationType", "EstimatedRadiographicMagnificationFactor"),
    *(
        "PhotometricInterpretation",
        "PixelRepresentation",
        "PixelIntensityRelationship",
        "PixelIntensityRelationshipSign",
    ),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "BurnedInAnnotation", "PresentationLUTShape"),
    *("RescaleIntercept", "RescaleSlope", "RescaleType", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence"),
    "ConversionType",
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
NEEDED_EMPTY = ("PatientSex", "Laterality", "PatientOrientation")  # required, may be empty where unknown
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91")


def check_editable(path: str | Path) -> None:
    """Refuse DICOM files whose stored values cannot be kept.

    Raises:
        UserError: Colour pixels.
    """
    samples = int(read_header(Path(path), pixels=False).get("SamplesPerPixel") or 1)
    if samples != 1:
        raise UserError(f"image {path} has {samples} samples a pixel; only grey images can be edited")


def plain_header(image: StoredImage, view: str = "", sex: str = "", age: float | None = None) -> Dataset:
    """What is known of an image that did not come as DICOM, as a Secondary Capture header for `write_derived`.

    Args:
        image: As stored; its display curve becomes a window or, where it is not a straight line, a VOI look-up table.
        view: PA, AP, LL or RL; anything else is left out.
        sex: M or F; anything else is left out.
        age: Years.
    """
    header = Dataset()
    header.SOPClassUID, header.Modality, header.BodyPartExamined = SecondaryCaptureImageStorage, "DX", "CHEST"
    header.ConversionType = "SYN"  # synthetic image
    if view in ("PA", "AP", "LL", "RL"):
        header.ViewPosition = view
    if sex in ("M", "F"):
        header.PatientSex = sex
    if age is not None and 0 <= age < 1000:
        header.PatientAge = f"{int(age):03d}Y"
    header.PhotometricInterpretation, header.PresentationLUTShape = image.photometric, "IDENTITY"
    if image.photometric == "MONOCHROME1":
        header.PresentationLUTShape = "INVERSE"
    header.BitsAllocated, header.BitsStored = (8, 8) if image.bits <= 8 else (16, image.bits)
    shown = 1 - image.curve if image.photometric == "MONOCHROME1" else image.curve
    if len(shown) == 2**image.bits and np.allclose(shown, np.linspace(0, 1, len(shown)), rtol=0, atol=1e-4):
        header.WindowCenter, header.WindowWidth = str(2 ** (image.bits - 1)), str(2**image.bits)
    else:
        table = Dataset()
        table.LUTDescriptor = [len(shown) % 2**16, image.minimum, 16]
        table.LUTData = np.round(shown * 65535).astype("<u2").tolist()
        header.VOILUTSequence = [table]
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return header


def write_derived(
    path: str | Path, source: str | Path | Dataset, stored: NDArray[Any], description: str, identity: str
) -> Path:
    """Write stored values as a derived, synthetic DICOM image.

    Size, bits, photometric interpretation, look-up tables and window are the source's; the pixels are not compressed.
    Study, series and instance get new UIDs; the patient is anonymous.

    Args:
        path: The file to write.
        source: The DICOM file that the values come from, or `plain_header` of a picture.
        stored: `[H, W]`, of the type that `read_stored` gave.
        description: What was done, for DerivationDescription (cut to its 1024 characters).
        identity: Any text that tells this result from others; the same text gives the same UIDs.

    Raises:
        UserError: The file cannot be written.
    """
    header = source if isinstance(source, Dataset) else read_header(Path(source), pixels=False)
    instance, study, series = (generate_uid(entropy_srcs=[identity, kind]) for kind in ("instance", "study", "series"))
    dataset = Dataset()
    for name in KEPT:
        if name in header:
            dataset[name] = header[name]
    dataset.SOPClassUID = header.get("SOPClassUID") or SecondaryCaptureImageStorage
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = instance, study, series
    anonymous = hashlib.sha256(identity.encode()).hexdigest()[:12].upper()
    dataset.PatientName, dataset.PatientID = "SYNTHETIC", f"SYNTHETIC-{anonymous}"
    dataset.PatientIdentityRemoved, dataset.DeidentificationMethod = "YES", "only technical elements were kept"
    for name in NEEDED_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    for name in ("PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
        setattr(dataset, name, "")
    dataset.SeriesNumber = dataset.InstanceNumber = "1"
    dataset.ImageType = ["DERIVED", "SECONDARY", "SYNTHETIC"]
    dataset.SyntheticData, dataset.ContentQualification = "YES", "RESEARCH"
    dataset.DerivationDescription = description[:1024]
    dataset.Manufacturer, dataset.ManufacturerModelName = "cxrsynth", "cxrsynth"
    dataset.SoftwareVersions = f"cxrsynth {__version__}"
    if header.file_meta.TransferSyntaxUID in LOSSY:
        dataset.LossyImageCompression = "01"

    wide = int(header.get("BitsAllocated") or 16) > 8
    values = stored if wide or stored.dtype.itemsize == 1 else stored.astype(np.int8)
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, int(values.dtype.kind == "i")
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored = min(int(header.get("BitsStored") or 16), dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = instance

    def write(file: IO[bytes]) -> None:
        dataset.save_as(file, enforce_file_format=True)
        # Pixels are the last element. Written here from where they are: pydicom would hold them twice.
        kind = b"OB" if dataset.BitsAllocated == 8 else b"OW"
        file.write(struct.pack("<HH2sHI", *PIXEL_DATA, kind, 0, values.nbytes + values.nbytes % 2))
        file.write(values.data)
        file.write(b"\0" * (values.nbytes % 2))

    written = write_atomic(path, write)
    try:
        _check(written, instance, values)
    except Exception:
        written.unlink()
        raise
    return written


def _check(path: Path, instance: str, values: NDArray[Any]) -> None:
    """Read the file back as any viewer would: it holds what was meant."""
    again = pydicom.dcmread(path, defer_size=4096)
    assert again.SOPInstanceUID == again.file_meta.MediaStorageSOPInstanceUID == instance
    assert (again.Rows, again.Columns) == values.shape
    pixels: Any = again.get_item("PixelData", keep_deferred=True)
    with open(path, "rb") as file:
        file.seek(pixels.value_tell)
        padding = values.nbytes % 2
        assert pixels.length == values.nbytes + padding
        digest = hashlib.sha256(values.data)
        digest.update(b"\0" * padding)
        assert hashlib.file_digest(file, "sha256").digest() == digest.digest()
