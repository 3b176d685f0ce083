import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.ops.box import box_mean, box_mean_reference


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (8, 8), (33, 50), (96, 17)])
@pytest.mark.parametrize(("radius", "times"), [(0, 2), (1, 0), (1, 1), (2, 3), (19, 3), (200, 2)])
def test_it_is_the_reference(shape, radius, times):
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(box_mean(x, radius, times), box_mean_reference(x, radius, times), rtol=0, atol=1e-10)


def test_what_follows_great_values_is_exact_enough():
    x = torch.zeros(4, 300, dtype=torch.float64)
    x[:, :20] = 1e6
    assert box_mean(x, 9, 3)[:, 100:].abs().max() < 1e-8


def test_constant_images_stay_so():
    assert torch.equal(box_mean(torch.zeros(20, 30).double(), 4, 3), torch.zeros(20, 30).double())
    torch.testing.assert_close(box_mean(torch.ones(20, 30).double(), 4, 3), torch.ones(20, 30).double())


def test_layout_and_threads_change_no_bit(threads, path):
    x = torch.randn(50, 41, dtype=torch.float64)
    threads(1)
    expected = box_mean(x.T, 3, 2)
    threads(3)
    assert torch.equal(box_mean(x.T.contiguous(), 3, 2), expected)
    assert box_mean(torch.zeros(0, 5).double(), 3).shape == (0, 5)


@pytest.mark.parametrize(
    ("x", "radius", "times"),
    [
        (torch.zeros(3, 3), 1, 1),
        (torch.zeros(1, 3, 3).double(), 1, 1),
        (torch.zeros(3, 3).double(), -1, 1),
        (torch.zeros(3, 3).double(), 1, -1),
    ],
)
def test_what_does_not_fit_is_said(x, radius, times):
    with pytest.raises(UserError, match="box_mean: x is"):
        box_mean(x, radius, times)
