import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxrsynth.data import read_image, read_stored
from cxrsynth.data.reading import write_png
from cxrsynth.errors import UserError

RAMP = np.arange(256, dtype=np.uint8).reshape(8, 32)


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_eight_bit_colour_types_give_the_same_grey(tmp_path, mode):
    image = read_image(save(tmp_path / "x.png", RAMP, mode))
    assert image.shape == (1, 8, 32)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image[0].numpy(), RAMP / 255, atol=1e-5)


def test_one_bit_and_sixteen_bit(tmp_path):
    ones = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(read_image(save(tmp_path / "1.png", ones))[0].numpy(), ones)
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    np.testing.assert_allclose(read_image(save(tmp_path / "16.png", deep))[0].numpy(), deep / 65535, atol=1e-6)
    twelve = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    stored = read_stored(save(tmp_path / "12.png", twelve))
    np.testing.assert_array_equal(stored.stored, twelve)
    np.testing.assert_allclose(stored.display(), twelve / 4095, atol=1e-5)


def test_real_colours_become_luma(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_allclose(read_image(save(tmp_path / "x.png", red)), 0.299 * 200 / 255, atol=0.003)


def test_jpeg(tmp_path):
    Image.fromarray(RAMP.repeat(8, 0).repeat(8, 1)).save(tmp_path / "x.jpg", quality=95)
    assert (
        read_image(tmp_path / "x.jpg")[0] - torch.from_numpy(RAMP.repeat(8, 0).repeat(8, 1)) / 255
    ).abs().mean() < 0.01


@pytest.mark.parametrize("deep", [False, True])
def test_paste_changes_nothing_outside_the_region(tmp_path, deep):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 65536 if deep else 256, (31, 20)).astype(np.uint16 if deep else np.uint8)
    source = read_stored(save(tmp_path / "source.png", array))
    region = np.zeros((31, 20), bool)
    region[5:12, 3:9] = True
    painted = torch.rand(31, 20)
    pasted = source.paste(painted, region)
    np.testing.assert_array_equal(source.stored, array)
    again = read_stored(pasted.save_png(tmp_path / "out" / "pasted.png"))
    assert again.stored.dtype == array.dtype
    np.testing.assert_array_equal(again.stored[~region], array[~region])
    np.testing.assert_allclose(again.display()[region], painted.numpy()[region], atol=0.6 / (65535 if deep else 255))


def test_an_empty_region_gives_the_same_image(tmp_path):
    source = read_stored(save(tmp_path / "x.png", RAMP))
    np.testing.assert_array_equal(source.paste(np.ones_like(RAMP), np.zeros_like(RAMP)).stored, RAMP)


def test_write_png_takes_floats_and_integers(tmp_path):
    np.testing.assert_array_equal(read_stored(write_png(tmp_path / "a.png", torch.from_numpy(RAMP / 255))).stored, RAMP)
    np.testing.assert_array_equal(read_stored(write_png(tmp_path / "b.png", RAMP)).stored, RAMP)


def png_header(data: bytes, width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.filterwarnings("ignore:Image size", "ignore:VR lookup failed")
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cut.png", lambda data: data[: len(data) // 2], "is damaged"),
        ("bytes.png", lambda data: data[:60] + b"\xff" * 20 + data[80:], "is damaged"),
        ("huge.png", lambda data: png_header(data, 200_000, 200_000), "decompression bomb|claims"),
        ("large.png", lambda data: png_header(data, 12_000, 12_000), "claims 12000 x 12000"),
        ("text.png", lambda data: b"hello" * 50, "is not a PNG, JPEG or DICOM"),
        ("empty.png", lambda data: b"", "is empty"),
        ("text.dcm", lambda data: b"hello" * 50, "is not a DICOM image"),
    ],
)
def test_bad_files_give_one_sentence(tmp_path, name, change, message):
    good = save(tmp_path / "good.png", np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8))
    path = tmp_path / name
    path.write_bytes(change(good.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot read image"):
        read_image(tmp_path / "missing.png")


def test_real_full_size_images(shared):
    paths = sorted((shared / "cxr" / "full_size").glob("*.png"))
    assert len(paths) == 6
    for path in paths:
        image = read_image(path)
        assert image.shape == (1, 1024, 1024)
        assert 0.2 < image.mean() < 0.8
