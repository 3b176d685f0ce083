import pytest
import torch

from cxrsynth.data.geometry import from_square, to_square


@pytest.mark.parametrize(("height", "width"), [(40, 25), (25, 40), (33, 33)])
def test_padding_is_air_and_nothing_is_cropped(height, width):
    square = to_square(torch.ones(2, 1, height, width), max(height, width))
    assert square.shape == (2, 1, max(height, width), max(height, width))
    assert square.sum() == 2 * height * width


@pytest.mark.parametrize("leading", [(), (1,), (2, 3)])
def test_from_square_undoes_to_square(leading):
    image = torch.rand(*leading, 40, 26)
    same = from_square(to_square(image, 40), (40, 26))
    assert torch.equal(same, image)
    smooth = torch.linspace(0, 1, 26).expand(*leading, 40, 26)
    back = from_square(to_square(smooth, 80), (40, 26))
    assert back.shape == smooth.shape
    torch.testing.assert_close(back[..., 3:-3], smooth[..., 3:-3], atol=0.02, rtol=0)


def test_shrinking_is_antialiased():
    stripes = torch.zeros(1, 64, 64)
    stripes[..., ::2] = 1
    small = to_square(stripes, 16)
    torch.testing.assert_close(small[..., 2:-2], torch.full_like(small[..., 2:-2], 0.5), atol=0.05, rtol=0)
