import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cxrsynth.data import read_stored
from cxrsynth.data.codestream import codestream_shape
from cxrsynth.errors import UserError

FILES = {
    "RG1_UNCR.dcm": ((1955, 1841), "MONOCHROME1", 15),
    "RG1_J2KR.dcm": ((1955, 1841), "MONOCHROME1", 15),
    "RG1_J2KI.dcm": ((1955, 1841), "MONOCHROME1", 15),
    "RG3_J2KR.dcm": ((1760, 1760), "MONOCHROME1", 10),
    "CR-MONO1-10-chest.dcm": ((440, 440), "MONOCHROME1", 10),
    "CR-ModalitySequenceLUT.dcm": ((1576, 1976), "MONOCHROME1", 10),
    "NIH_DX_mono2_8bit_implicit.dcm": ((1024, 1024), "MONOCHROME2", 8),
    "RSNA_CR_mono2_8bit_jpeg.dcm": ((1024, 1024), "MONOCHROME2", 8),
    "RSNA_CR_mono1_tag_8bit_jpeg.dcm": ((1024, 1024), "MONOCHROME1", 8),
}
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


def write_dicom(path: Path, pixels: np.ndarray, bits: int = 12, **elements) -> Path:
    """A small uncompressed DICOM image."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.1.1", generate_uid(), "DX"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, int(pixels.dtype.kind == "i")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def ramp() -> np.ndarray:
    return np.linspace(0, 4095, 32 * 24).astype(np.uint16).reshape(32, 24)


def test_without_a_window_the_range_of_the_values_is_shown(tmp_path, ramp):
    values = ramp // 4 + 1000
    display = read_stored(write_dicom(tmp_path / "x.dcm", values)).display()
    np.testing.assert_allclose(display, (values - 1000.0) / (values.max() - 1000), atol=2e-5)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_and_rescale_agree_with_pydicom(tmp_path, ramp, function):
    path = write_dicom(
        tmp_path / "x.dcm",
        ramp,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=[3000, 40],
        WindowWidth=[2000, 80],
        VOILUTFunction=function,
    )
    dataset = pydicom.dcmread(path)
    # pydicom gives the range of the modality values; a pixel beyond the window on either side shows its ends
    peer = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = -1000.0, 2 * 4095.0 - 1000
    np.testing.assert_allclose(read_stored(path).display(), (peer - low) / (high - low), atol=5e-4)


def test_monochrome1_is_shown_inverted_but_stored_as_it_is(tmp_path, ramp):
    plain = read_stored(write_dicom(tmp_path / "2.dcm", ramp))
    other = read_stored(write_dicom(tmp_path / "1.dcm", ramp, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(other.stored, ramp)
    np.testing.assert_allclose(other.display(), 1 - plain.display(), atol=2e-5)


def test_voi_lut_and_modality_lut(tmp_path, ramp):
    curve = (np.linspace(0, 1, 4096) ** 2 * 65535).astype(np.uint16)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], curve.tobytes()
    voi = read_stored(write_dicom(tmp_path / "voi.dcm", ramp, VOILUTSequence=[table]))
    np.testing.assert_allclose(voi.display(), (ramp / 4095.0) ** 2, atol=1e-3)
    table.ModalityLUTType = "US"
    modality = read_stored(write_dicom(tmp_path / "modality.dcm", ramp, ModalityLUTSequence=[table]))
    np.testing.assert_allclose(modality.display(), (ramp / 4095.0) ** 2, atol=1e-3)


def test_a_senseless_window_is_ignored(tmp_path, ramp):
    image = read_stored(write_dicom(tmp_path / "x.dcm", ramp, WindowCenter=60000, WindowWidth=100))
    assert image.display().std() > 0.2


def test_signed_values_survive(tmp_path):
    values = np.linspace(-2000, 2000, 600).astype(np.int16).reshape(20, 30)
    image = read_stored(write_dicom(tmp_path / "x.dcm", values, bits=16))
    np.testing.assert_allclose(image.display(), (values + 2000) / 4000, atol=2e-5)
    again = read_stored(image.save_png(tmp_path / "x.png"))
    np.testing.assert_array_equal(again.stored.astype(int) - 32768, values)
    np.testing.assert_array_equal(again.display(), image.display())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_painting_goes_back_through_window_and_inversion(tmp_path, ramp, photometric):
    path = write_dicom(
        tmp_path / "x.dcm", ramp, PhotometricInterpretation=photometric, WindowCenter=2000, WindowWidth=3000
    )
    source = read_stored(path)
    region = np.zeros(ramp.shape, bool)
    region[8:20, 4:20] = True
    painted = np.random.default_rng(0).random(ramp.shape).astype(np.float32)
    again = read_stored(source.paste(painted, region).save_png(tmp_path / "x.png"))
    assert (again.photometric, again.bits) == (photometric, 12)
    np.testing.assert_array_equal(again.stored[~region], ramp[~region])
    np.testing.assert_allclose(again.display()[region], painted[region], atol=0.6 / 3000)


@pytest.mark.parametrize("name", FILES)
def test_real_files(shared, tmp_path, name):
    shape, photometric, bits = FILES[name]
    image = read_stored(shared / "dicom" / name)
    assert (image.stored.shape, image.photometric, image.bits) == (shape, photometric, bits)
    display = image.display()
    assert display.min() >= 0
    assert display.max() <= 1
    assert display.std() > 0.1
    if shape[0] < 1200:  # writing is slow for the large ones
        again = read_stored(image.save_png(tmp_path / "x.png"))
        np.testing.assert_array_equal(again.stored, image.stored)
        np.testing.assert_array_equal(again.display(), display)


def test_real_files_agree_with_each_other(shared):
    folder = shared / "dicom"
    plain, lossless, lossy = (read_stored(folder / f"RG1_{kind}.dcm") for kind in ("UNCR", "J2KR", "J2KI"))
    np.testing.assert_array_equal(plain.stored, lossless.stored)
    assert 0 < np.abs(plain.stored.astype(int) - lossy.stored).max() <= 403
    bright = read_stored(folder / "RSNA_CR_mono2_8bit_jpeg.dcm").display()
    np.testing.assert_allclose(read_stored(folder / "RSNA_CR_mono1_tag_8bit_jpeg.dcm").display(), 1 - bright, atol=1e-5)


def test_chest_of_pydicom_data_is_bright_on_dark():
    path = get_testdata_file("RG1_UNCR.dcm", download=False)
    if path is None:
        pytest.skip("needs the package pydicom-data")
    display = read_stored(path).display()
    spine, lung = display[600:1200, 880:960].mean(), display[600:1000, 450:600].mean()
    assert spine > lung + 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("PixelData"), "without pixels"),
        (lambda d: setattr(d, "Rows", 65535), "cannot be decoded|claims"),
        (lambda d: (setattr(d, "Rows", 65535), setattr(d, "Columns", 65535)), "claims 65535 x 65535"),
        (lambda d: setattr(d, "Rows", 0), "claims 0 x 24"),
        (lambda d: setattr(d, "NumberOfFrames", 2), "2 frames"),
        (lambda d: d.pop("BitsAllocated"), "cannot be decoded"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:100]), "cannot be decoded"),
        (lambda d: setattr(d, "BitsStored", 99), "cannot be decoded"),
    ],
)
def test_bad_elements_give_one_sentence(tmp_path, ramp, change, message):
    path = write_dicom(tmp_path / "x.dcm", ramp)
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    with pytest.raises(UserError, match=message) as caught:
        read_stored(path)
    assert "\n" not in str(caught.value)


def test_cut_off_anywhere_gives_one_sentence(tmp_path, ramp):
    data = write_dicom(tmp_path / "x.dcm", ramp).read_bytes()
    for length in (1, 131, 140, 200, 300, len(data) - 500, len(data) - 1):
        (tmp_path / "cut.dcm").write_bytes(data[:length])
        with pytest.raises(UserError):
            read_stored(tmp_path / "cut.dcm")


def test_the_size_inside_a_compressed_image_is_not_believed(shared, tmp_path):
    data = (shared / "dicom" / "RG3_J2KR.dcm").read_bytes()
    start = data.index(b"\xff\x4f\xff\x51") + 8
    (tmp_path / "j2k.dcm").write_bytes(data[:start] + struct.pack(">II", 60000, 60000) + data[start + 8 :])
    data = (shared / "dicom" / "RSNA_CR_mono2_8bit_jpeg.dcm").read_bytes()
    start = data.index(b"\xff\xc0") + 5
    (tmp_path / "jpeg.dcm").write_bytes(data[:start] + struct.pack(">HH", 65000, 65000) + data[start + 4 :])
    for name in ("j2k.dcm", "jpeg.dcm"):
        with pytest.raises(UserError, match=r"its compressed image \(6"):
            read_stored(tmp_path / name)


def test_codestream_without_a_size():
    assert codestream_shape(b"\xff\xd8\xff\xe0\x00\x04ab") is None
    assert codestream_shape(b"") is None
    assert codestream_shape(b"\xff\x4f\xff\x51\x00") is None
