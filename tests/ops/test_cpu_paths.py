"""All instruction sets that this machine can run give the same bits; only sums over an image differ in their last."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from cxrsynth.ops import demons, demons_reference, warp
from cxrsynth.ops.extension import kernels
from cxrsynth.registration.field import jacobian_determinant, smallest_jacobian


@pytest.fixture
def on_each_path():
    """Calls a function once on every usable path and returns {path: result}."""
    best = kernels().current_path()

    def call(function):
        results = {}
        for path in kernels().usable_paths():
            kernels().set_path(path)
            results[path] = function()
        return results

    yield call
    kernels().set_path(best)


def images(height=67, width=90):
    moving = F.interpolate(torch.rand(1, 1, 12, 12), (height, width), mode="bicubic")
    field = F.interpolate(torch.randn(1, 2, 4, 4), (height, width), mode="bicubic")
    return moving, warp(moving, field)


def test_the_paths_are_named_and_an_unknown_one_is_refused():
    usable = kernels().usable_paths()
    assert usable[0] == "portable"
    assert kernels().current_path() in usable
    with pytest.raises(ValueError, match="no usable CPU path is called none"):
        kernels().set_path("none")


@pytest.mark.parametrize(
    ("force", "update", "kernel"),
    list(itertools.product(["two_force", "esm", "thirion"], ["additive", "diffeomorphic"], ["gaussian", "itk"])),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_demons_finds_the_same_field(on_each_path, force, update, kernel, dtype):
    moving, fixed = (image.to(dtype) for image in images())
    options = {"force": force, "update": update, "kernel": kernel, "sigma_diffusion": 1.5, "sigma_fluid": 0.7}
    found = on_each_path(lambda: demons(moving, fixed, iterations=(6, 4, 2), **options))
    assert found["portable"][0].abs().max() > 0.1
    for field, *traces in found.values():
        assert torch.equal(field, found["portable"][0])
        for ours, expected in zip(traces, found["portable"][1:], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("force", ["two_force", "esm", "thirion"])
@pytest.mark.parametrize("width", [16, 17, 23, 33, 131])  # of whole vectors, and with every kind of rest
def test_a_mask_and_odd_widths_change_no_bit(on_each_path, force, width):
    moving, fixed = images(20, width)
    mask = (torch.rand_like(fixed) > 0.3).float()
    found = on_each_path(lambda: demons(moving, fixed, iterations=(3,), shrink=(1,), force=force, mask=mask)[0])
    for result in found.values():
        assert torch.equal(result, found["portable"])


@pytest.mark.parametrize("force", ["two_force", "esm", "thirion"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("row", "column"), [(4, 1), (4, -2), (1, 7), (-2, 7)])
@pytest.mark.parametrize("width", [31, 40])
def test_itks_border_has_no_slope_beside_what_is_not_finite(on_each_path, force, value, row, column, width):
    moving, fixed = (image.double() for image in images(20, width))
    fixed[..., row, column] = value
    mask = torch.ones_like(fixed)
    options = {"force": force, "kernel": "itk", "iterations": (3,), "shrink": (1,)}
    expected = demons_reference(moving, fixed, **options)
    found = on_each_path(lambda: [demons(moving, fixed, **options), demons(moving, fixed, mask=mask, **options)])
    for results in found.values():
        for result in results:
            for ours, theirs in zip(result, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("reach", [0.3, 4.0, 60.0])  # neighbouring pixels, distant ones, the border
@pytest.mark.parametrize("channels", [1, 3])
def test_warp_agrees(on_each_path, mode, reach, channels):
    image, displacement = torch.rand(2, channels, 45, 77), torch.randn(2, 2, 45, 77) * reach
    found = on_each_path(lambda: warp(image, displacement, mode))
    for result in found.values():
        assert torch.equal(result, found["portable"])


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("slope", [0.02, 0.2, 1.5])  # a vector reads one row or two, several, too many
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(45, 700), (9, 31), (4, 40), (5, 32), (6, 33)])
def test_warp_agrees_where_smooth_and_rough_parts_follow_each_other(on_each_path, mode, slope, channels, size):
    height, width = size
    image = torch.rand(2, channels, height, width)
    x = torch.arange(width) / 40.0
    displacement = 40 * slope * torch.stack([x.sin(), x.cos()])[:, None].expand(2, height, width).clone()
    displacement += torch.rand(2, height, 1) * 6  # each row its own
    displacement[:, :, width // 3 : width // 2] += torch.randn(2, height, width // 2 - width // 3) * 3
    displacement[:, 2, 5], displacement[0, 1, 7], displacement[1, 3, -1] = torch.nan, torch.inf, -torch.inf
    found = on_each_path(lambda: warp(image, displacement.expand(2, 2, height, width), mode))
    for result in found.values():
        assert torch.equal(result, found["portable"])


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("longest", [32_767, 32_768, 65_537])  # the largest signed word, above it, above a word
@pytest.mark.parametrize("tall", [True, False])
@pytest.mark.parametrize("reach", [1.0, 20.0])
def test_warp_agrees_on_tall_and_on_long_images(on_each_path, mode, longest, tall, reach):
    size = (longest, 32) if tall else (32, longest)
    image, displacement = torch.rand(1, 1, *size), torch.randn(1, 2, *size) * reach
    found = on_each_path(lambda: warp(image, displacement, mode))
    for result in found.values():
        assert torch.equal(result, found["portable"])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_itk_agrees_where_the_moving_image_is_not_finite(on_each_path, value):
    moving, fixed = images(40, 50)
    moving[..., 7, 9], moving[..., -1, 20] = value, value
    initial = torch.randn(1, 2, 40, 50) * 3  # samples beside these pixels, and outside the image
    options = {"kernel": "itk", "force": "esm", "iterations": (2,), "shrink": (1,), "initial_field": initial}
    found = on_each_path(lambda: demons(moving, fixed, **options)[0])
    for result in found.values():
        torch.testing.assert_close(result, found["portable"], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_gradients_of_warp_agree(on_each_path, mode):
    image, displacement = torch.rand(1, 2, 33, 150), torch.randn(1, 2, 33, 150) * 2
    weight = torch.randn_like(image)

    def gradients():
        inputs = image.clone().requires_grad_(), displacement.clone().requires_grad_()
        return torch.autograd.grad((warp(*inputs, mode) * weight).sum(), inputs)

    found = on_each_path(gradients)
    for result in found.values():
        for ours, expected in zip(result, found["portable"], strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [2, 17, 34, 131])
def test_the_smallest_jacobian_is_the_same(on_each_path, dtype, width):
    field = torch.randn(2, 2, 9, width, dtype=dtype)
    field[1, 1, 4, width // 2] = torch.nan
    expected = jacobian_determinant(field).flatten(1).amin(1)
    for found in on_each_path(lambda: smallest_jacobian(field)).values():
        torch.testing.assert_close(found, expected, equal_nan=True)
