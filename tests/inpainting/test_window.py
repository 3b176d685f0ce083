import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting.window import soft_edge, windows_around


def region_of(height: int, width: int, *boxes: tuple[int, int, int, int]) -> torch.Tensor:
    region = torch.zeros(len(boxes), 1, height, width)
    for r, (x0, y0, x1, y1) in zip(region, boxes, strict=True):
        r[:, y0:y1, x0:x1] = 1
    return region


def test_window_holds_the_region_with_its_context():
    (box,) = windows_around(region_of(100, 100, (40, 30, 60, 50)), context=0.5, minimum=0.1).boxes
    assert box == (30, 20, 40)


def test_window_has_a_smallest_side_and_stays_in_the_image():
    boxes = windows_around(region_of(64, 64, (0, 0, 3, 3), (61, 30, 64, 33)), minimum=0.25).boxes
    assert boxes == ((0, 0, 16), (48, 24, 16))


@pytest.mark.parametrize("shape", [(48, 64), (64, 48)])
def test_window_of_a_whole_oblong_image_is_its_square(shape: tuple[int, int]):
    windows = windows_around(torch.ones(1, 1, *shape))
    assert windows.boxes[0][2] == 64
    crop = windows.crop(torch.ones(1, 1, *shape), 64)
    assert crop.sum() == 48 * 64
    assert torch.equal(crop, crop.flip(2, 3))  # the air around it is even


def test_jitter_never_cuts_the_region():
    region = region_of(64, 64, *[(20, 30, 34, 50)] * 200)
    windows = windows_around(region, minimum=0.3, jitter=0.5)
    assert len(set(windows.boxes)) > 20
    for left, top, side in windows.boxes:
        assert left <= 20
        assert top <= 30
        assert left + side >= 34
        assert top + side >= 50
        assert min(left, top) >= 0
        assert max(left, top) + side <= 64


def test_crop_at_its_own_size_is_a_copy():
    image, region = torch.rand(1, 1, 64, 64), region_of(64, 64, (20, 20, 30, 30))
    windows = windows_around(region, minimum=0.5)
    left, top, side = windows.boxes[0]
    assert side == 32
    assert torch.equal(windows.crop(image, 32), image[..., top : top + 32, left : left + 32])


@pytest.mark.parametrize("size", [12, 20, 48])
def test_cropped_region_covers_every_painted_pixel(size: int):
    region = (torch.rand(1, 1, 64, 64) < 0.02).float()
    region[..., :10, :] = 0
    small = windows_around(region, minimum=0.5).crop_region(region, size)
    assert set(small.unique().tolist()) == {0.0, 1.0}
    back = windows_around(region, minimum=0.5).paste(small, torch.zeros_like(region), region)
    assert (back[region > 0] > 0).all()
    assert (back[region == 0] == 0).all()


def test_coordinates_match_the_pixels():
    height, width = 60, 100
    column = (torch.arange(width) + 0.5 - width / 2) / 50
    row = (torch.arange(height) + 0.5 - height / 2) / 50
    windows = windows_around(region_of(height, width, (70, 20, 80, 30)), minimum=0.24)
    left, top, side = windows.boxes[0]
    x, y = windows.coordinates(side)[0]
    torch.testing.assert_close(x[0], column[left : left + side])
    torch.testing.assert_close(y[:, 0], row[top : top + side])


@pytest.mark.parametrize("size", [16, 32, 40])
def test_unchanged_window_pastes_to_the_same_image(size: int):
    image = torch.rand(3, 1, 64, 64)
    region = region_of(64, 64, (5, 5, 20, 20), (30, 30, 60, 60), (0, 0, 64, 64))
    windows = windows_around(region, minimum=0.5)
    torch.testing.assert_close(windows.paste(windows.crop(image, size), image, region), image)


def test_pasting_keeps_the_noise_of_the_image():
    image = (0.5 + 0.05 * torch.randn(1, 1, 128, 128)).clamp(0, 1)
    region = region_of(128, 128, (32, 32, 96, 96))
    windows = windows_around(region, minimum=0.75)
    brighter = windows.paste(windows.crop(image, 32) + 0.2, image, region)
    inside = brighter[..., 40:88, 40:88]
    torch.testing.assert_close(inside, image[..., 40:88, 40:88] + 0.2, atol=1e-5, rtol=0)


def test_pasting_is_exact_outside():
    image, region = torch.rand(2, 1, 50, 70), (torch.rand(2, 1, 50, 70) < 0.3).float()
    region[:, :, :15] = 0
    windows = windows_around(region)
    pasted = windows.paste(torch.rand(2, 1, 24, 24), image, region)
    assert torch.equal(pasted[region == 0], image[region == 0])
    assert (pasted[region == 1] != image[region == 1]).float().mean() > 0.9
    assert 0 <= pasted.min() <= pasted.max() <= 1


@pytest.mark.parametrize("options", [{"context": -0.1}, {"minimum": 0.0}, {"minimum": 1.5}])
def test_bad_windows_are_refused(options: dict):
    with pytest.raises(UserError):
        windows_around(torch.ones(1, 1, 8, 8), **options)


def test_a_soft_edge_lies_inside_the_region_only():
    region = torch.zeros(1, 1, 20, 20)
    region[..., 5:15, 0:15] = 1
    edge = soft_edge(region, 3)
    assert torch.equal(edge > 0, region > 0)
    assert edge[0, 0, 10, 11:16].tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert edge[0, 0, 10, 0] == 1  # the image's border is no edge
    assert torch.equal(soft_edge(region, 0), region)
    with pytest.raises(UserError, match="feather"):
        soft_edge(region, -1)


def test_a_feathered_paste_is_exact_outside_and_whole_in_the_middle():
    image, region = torch.rand(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    region[..., 8:24, 8:24] = 1
    windows = windows_around(region)
    size = windows.boxes[0][2]
    painted = windows.crop(image, size) * 0.5
    hard, soft = (windows.paste(painted, image, region, feather) for feather in (0, 4))
    assert torch.equal(soft[region == 0], image[region == 0])
    assert torch.equal(soft[..., 14:18, 14:18], hard[..., 14:18, 14:18])
    torch.testing.assert_close(soft[..., 8, 16], image[..., 8, 16] + 0.2 * (hard - image)[..., 8, 16])
