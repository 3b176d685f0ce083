import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cxrsynth.data.geometry import from_square, to_square
from cxrsynth.data.stored import StoredImage, plain_curve, quantise
from cxrsynth.editing.native import FloatCanvas, NativeWindow, StoredCanvas, enlarge, resampling
from cxrsynth.inpainting.window import windows_around

PLACE = {"context": 0.25, "minimum": 0.375}


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.mark.parametrize(("size", "new"), [(100, 32), (32, 100), (48, 48), (7, 3)])
def test_resampling_is_torchs(size: int, new: int):
    signal = torch.rand(1, 1, size, 5)
    peer = F.interpolate(signal, (new, 5), mode="bilinear", antialias=True)
    torch.testing.assert_close(resampling(size, new) @ signal[0, 0], peer[0, 0])


CASES = {
    "inside": ((150, 200), disc(150, 200, 70, 90, 20)),
    "corner": ((150, 200), disc(150, 200, 0, 199, 30)),
    "wider than the image": ((90, 200), disc(90, 200, 45, 60, 80)),
    "everywhere": ((200, 130), np.ones((200, 130), bool)),
    "finer than the window": ((60, 60), disc(60, 60, 30, 30, 4)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("feather", [0, 5])
def test_strips_give_what_whole_windows_give(film, name: str, feather: int):
    shape, region = CASES[name]
    pixels = film(*shape).astype(np.float32)
    image, binary = torch.from_numpy(pixels)[None, None], torch.from_numpy(region).float()[None, None]
    windows, window = windows_around(binary, **PLACE), NativeWindow.around(region, **PLACE)
    canvas = FloatCanvas(pixels.copy())
    torch.testing.assert_close(window.crop(canvas, 32), windows.crop(image, 32))
    assert torch.equal(window.crop_region(region, 32), windows.crop_region(binary, 32))
    assert torch.equal(window.coordinates(32, shape), windows.coordinates(32))
    painted = torch.rand(1, 1, 32, 32)
    window.paste(canvas, painted - windows.crop(image, 32), region, feather)
    expected = windows.paste(painted, image, binary, feather)[0, 0].numpy()
    np.testing.assert_allclose(canvas.pixels, expected, atol=1e-5)
    np.testing.assert_array_equal(canvas.pixels[~region], pixels[~region])


@pytest.mark.parametrize("shape", [(90, 130), (130, 90), (64, 64)])
def test_squares_are_those_of_the_data_room(film, shape: tuple[int, int]):
    pixels = film(*shape).astype(np.float32)
    square = NativeWindow.whole(shape).crop(FloatCanvas(pixels), 48)[0, 0]
    torch.testing.assert_close(square, to_square(torch.from_numpy(pixels), 48))
    marked = torch.from_numpy(disc(32, 32, 12, 20, 8)).float()
    np.testing.assert_array_equal(enlarge(marked, shape), from_square(marked, shape).numpy() > 0.5)


def test_the_middle_of_a_thin_region_gets_the_whole_change():
    pixels = np.full((400, 400), 0.5)
    region = np.zeros((400, 400), bool)
    region[200:212, 50:350] = True
    canvas = FloatCanvas(pixels)
    window = NativeWindow.around(region, **PLACE)
    window.paste(canvas, torch.full((1, 1, 32, 32), 0.2), region)
    np.testing.assert_allclose(pixels[205:207, 100:300], 0.7, atol=1e-6)
    assert 0.5 < pixels[200, 200] < 0.6


def test_stored_values_that_look_alike_are_kept_where_nothing_changes():
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    window_curve = quantise(np.clip((np.arange(4096) - 1000) / 2000, 0, 1))
    canvas = StoredCanvas(StoredImage(stored.copy(), window_curve, 0, "MONOCHROME2", 12))
    region = np.ones((64, 64), bool)
    window = NativeWindow.around(region, **PLACE)
    window.paste(canvas, torch.zeros(1, 1, 32, 32), region)
    np.testing.assert_array_equal(canvas.image.stored, stored)
    window.paste(canvas, torch.full((1, 1, 32, 32), 0.25), region)
    between = (stored >= 1000) & (stored < 2500)
    np.testing.assert_allclose(canvas.image.stored[between], stored[between] + 500.0, atol=1)


def fine(pixels: np.ndarray) -> np.ndarray:
    """What is finer than three pixels, squared."""
    image = torch.from_numpy(pixels.astype(np.float32))[None, None]
    return (image - F.avg_pool2d(image, 3, 1, 1))[0, 0].square().numpy()


def across(pixels: np.ndarray, region: np.ndarray) -> float:
    """Mean step between neighbours of which one is painted."""
    steps, edges = (
        [np.abs(np.diff(values.astype(float), axis=axis)) for axis in (0, 1)] for values in (pixels, region)
    )
    return float(np.concatenate([s[e > 0] for s, e in zip(steps, edges, strict=True)]).mean())


@pytest.mark.parametrize("bits", [8, 12])
def test_a_painted_part_is_as_sharp_as_its_surroundings_and_has_no_seam(film, bits: int):
    stored = np.round(film(1500, 1400) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    region = disc(1500, 1400, 800, 500, 220)
    image = StoredImage(stored.copy(), plain_curve(bits), 0, "MONOCHROME2", bits)
    window = NativeWindow.around(region, **PLACE)
    # a lesion of half the scale's range with structure of its own, and as bright at the region's edge
    change = 0.2 + 0.1 * torch.rand(1, 1, 32, 32)
    window.paste(StoredCanvas(image), change, region)
    assert np.abs(image.display() - stored / (2**bits - 1))[region].mean() > 0.1
    inner, ring = disc(1500, 1400, 800, 500, 215), disc(1500, 1400, 800, 500, 300) & ~region
    power = fine(image.display())
    assert 0.9 < power[inner].mean() / power[ring].mean() < 1.1
    assert across(image.stored, region) == pytest.approx(across(stored, region), rel=0.1)
