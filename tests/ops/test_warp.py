import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

from cxrsynth.errors import UserError
from cxrsynth.ops import warp, warp_reference
from cxrsynth.registration import to_grid_sample

DTYPES = [torch.float32, torch.float64]


def pair(batch=2, channels=1, height=17, width=23, dtype=torch.float64, reach=4.0):
    image = torch.rand(batch, channels, height, width, dtype=dtype)
    return image, torch.randn(batch, 2, height, width, dtype=dtype) * reach


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (16, 16), (17, 23), (33, 130)])
def test_kernel_equals_reference(dtype, mode, shape):
    image, displacement = pair(2, 3, *shape, dtype=dtype)
    torch.testing.assert_close(
        warp(image, displacement, mode), warp_reference(image, displacement, mode), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_agrees_with_grid_sample(mode):
    image, displacement = pair(channels=2)
    expected = F.grid_sample(image, to_grid_sample(displacement), mode=mode, padding_mode="border", align_corners=False)
    torch.testing.assert_close(warp(image, displacement, mode), expected)


def test_a_shift_of_whole_pixels_moves_pixels():
    image, displacement = pair()
    displacement[:, 0], displacement[:, 1] = 2, -1
    moved = warp(image, displacement)
    torch.testing.assert_close(moved[..., 1:, :-2], image[..., :-1, 2:], rtol=0, atol=0)


def test_zero_displacement_returns_the_same_bits():
    image, displacement = pair(dtype=torch.float32, height=40, width=70)
    assert torch.equal(warp(image, torch.zeros_like(displacement)), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradcheck(channels):
    image, displacement = pair(2, channels, 5, 6, reach=1.5)
    image.requires_grad_(), displacement.requires_grad_()
    assert torch.autograd.gradcheck(warp, (image, displacement))
    assert torch.autograd.gradcheck(lambda x: warp(x, displacement.detach(), "nearest"), (image,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 2), (16, 16), (17, 23), (9, 300)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_gradients_equal_those_of_the_reference(dtype, shape, mode):
    image, displacement = pair(2, 3, *shape, dtype=dtype)
    image.requires_grad_(), displacement.requires_grad_()
    weight, inputs = torch.randn_like(image), (image, displacement)
    ours = torch.autograd.grad((warp(image, displacement, mode) * weight).sum(), inputs)
    theirs = torch.autograd.grad((warp_reference(image, displacement, mode) * weight).sum(), inputs, allow_unused=True)
    exact = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=exact)
    torch.testing.assert_close(
        ours[1], torch.zeros_like(displacement) if theirs[1] is None else theirs[1], rtol=0, atol=exact
    )


def test_opcheck():
    image, displacement = pair()
    image.requires_grad_(), displacement.requires_grad_()
    opcheck(torch.ops.cxrsynth.warp, (image, displacement, "bilinear"))
    plain = image.detach(), displacement.detach(), image.detach()
    opcheck(torch.ops.cxrsynth.warp_backward, (*plain, "bilinear", True, False))


def test_compiles_whole_and_runs_under_autocast():
    image, displacement = pair(dtype=torch.float32)
    compiled = torch.compile(lambda a, b: warp(a * 2, b), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image, displacement), warp(image * 2, displacement))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = warp(image.bfloat16(), displacement)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), warp(image.bfloat16().float(), displacement), rtol=1e-2, atol=1e-2)


def test_views_and_channels_last_are_read_right():
    image, displacement = pair(2, 3, 20, 24)
    odd = image.to(memory_format=torch.channels_last), displacement.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(warp(*odd), warp(image, displacement))


def test_nan_displacement_reads_inside_the_image():
    image, displacement = pair(dtype=torch.float32, height=40, width=40)
    displacement[:, :, ::3] = torch.nan
    displacement[:, :, 1::3] = torch.inf
    assert warp(image, displacement).isfinite().all()


@pytest.mark.parametrize(
    ("image", "displacement", "mode"),
    [
        (torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 5), "bilinear"),
        (torch.rand(1, 4, 4), torch.rand(1, 2, 4, 4), "bilinear"),
        (torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 4), "cubic"),
        (torch.ones(1, 1, 4, 4, dtype=torch.uint8), torch.rand(1, 2, 4, 4), "bilinear"),
    ],
)
def test_what_does_not_fit_is_said(image, displacement, mode):
    with pytest.raises(UserError, match="warp: "):
        warp(image, displacement, mode)
