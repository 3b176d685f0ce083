import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

from cxrsynth.errors import UserError
from cxrsynth.ops import demons, demons_reference, warp_reference
from cxrsynth.ops.smoothing import smoothing_taps


def blobs(batch=2, height=41, width=53, dtype=torch.float64, reach=1.5):
    """Smooth images, and the same deformed by a smooth field."""
    moving = F.interpolate(torch.rand(batch, 1, 8, 8, dtype=dtype), (height, width), mode="bicubic")
    field = F.interpolate(torch.randn(batch, 2, 4, 4, dtype=dtype), (height, width), mode="bicubic") * reach
    return moving, warp_reference(moving, field)


@pytest.mark.parametrize(
    ("force", "update", "kernel", "fluid"),
    itertools.product(["two_force", "esm", "thirion"], ["additive", "diffeomorphic"], ["gaussian", "itk"], [0.0, 1.0]),
)
def test_kernel_equals_reference(force, update, kernel, fluid):
    moving, fixed = blobs()
    options = {"force": force, "update": update, "kernel": kernel, "sigma_fluid": fluid, "sigma_diffusion": 1.0}
    for ours, theirs in zip(demons(moving, fixed, **options), demons_reference(moving, fixed, **options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 3), (16, 16), (31, 64), (70, 33)])
@pytest.mark.parametrize("sigma", [0.0, 0.7, 3.0])
def test_every_size_equals_the_reference(shape, sigma):
    moving, fixed = torch.rand(1, 1, *shape, dtype=torch.float64), torch.rand(1, 1, *shape, dtype=torch.float64)
    coarse = 3 if min(shape) > 1 else 1  # torch's antialiased resize of a [1, 1, H, 1] image is wrong
    options = {"iterations": (3, 3), "shrink": (coarse, 1), "force": "esm", "sigma_diffusion": sigma}
    for ours, theirs in zip(demons(moving, fixed, **options), demons_reference(moving, fixed, **options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_mask_initial_field_and_tolerance_equal_the_reference():
    moving, fixed = blobs()
    mask = torch.zeros_like(fixed)
    mask[..., 8:30, 10:40] = 1
    initial = torch.randn(2, 2, 41, 53, dtype=torch.float64) * 0.2
    options = {"mask": mask, "initial_field": initial, "tol": 0.25, "force": "esm"}
    ours, theirs = demons(moving, fixed, **options), demons_reference(moving, fixed, **options)
    assert ours[1].isnan().any(), "the tolerance never stopped a level"
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9, equal_nan=True)


def test_pixels_outside_the_mask_do_not_pull():
    moving, fixed = blobs(1)
    displacement, mse, _ = demons(moving, fixed, mask=torch.zeros_like(fixed))
    assert not displacement.any()
    assert not mse.any()


def test_float32_agrees_with_float64():
    moving, fixed = blobs(1, 64, 64)
    options = {"force": "esm", "iterations": (10, 10), "shrink": (2, 1)}
    single = demons(moving.float(), fixed.float(), **options)[0]
    torch.testing.assert_close(single.double(), demons(moving, fixed, **options)[0], rtol=0, atol=1e-3)


def test_batch_and_thread_count_change_no_bit():
    moving, fixed = blobs(3, 61, 83, torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [
            torch.cat(x) for x in zip(*(demons(moving[i : i + 1], fixed[i : i + 1]) for i in range(3)), strict=True)
        ]
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            together = demons(moving, fixed)
            single = demons(moving[:1], fixed[:1])
            assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
            assert all(torch.equal(a[:1], b) for a, b in zip(alone, single, strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kernel", ["gaussian", "itk"])
def test_nan_and_constant_images_do_no_harm(kernel):
    moving, fixed = blobs(1, 64, 64, torch.float32)
    moving[..., 20:22, 20:22], fixed[..., 40, 40] = torch.nan, torch.inf
    displacement, mse, rms = demons(moving, fixed, kernel=kernel)
    assert displacement.isfinite().all()
    assert mse.isfinite().all()
    assert rms.isfinite().all()
    flat = torch.full_like(fixed, 0.5)
    assert not demons(flat, flat, kernel=kernel)[0].any()
    assert demons(flat, flat + 0.25, kernel=kernel)[0].isfinite().all()


def test_opcheck_and_compile():
    moving, fixed = blobs(1, 32, 32, torch.float32)
    sizes = [2, 1], [2, 1]
    opcheck(
        torch.ops.cxrsynth.demons, (moving, fixed, None, None, *sizes, "esm", "additive", "itk", 1.0, 0.0, 1.0, -1.0)
    )
    compiled = torch.compile(lambda a, b: demons(a, b)[0] * 2, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(moving, fixed), demons(moving, fixed)[0] * 2)


def test_box_taps_are_equal_and_of_the_asked_reach():
    for sigma in (0.8, 1.63, 3.2, 10.0):
        taps = smoothing_taps(sigma, "box")
        radius = len(taps) - 1
        assert taps == [1 / (2 * radius + 1)] * len(taps)
        assert abs((radius * (radius + 1) / 3) ** 0.5 - sigma) < 0.3


def test_itk_taps_as_itk_prints_them():
    assert len(smoothing_taps(1.0, "itk")) == 3
    assert len(smoothing_taps(2.0, "itk")) == 4
    for kernel in ("itk", "gaussian"):
        taps = smoothing_taps(1.7, kernel)
        assert abs(2 * sum(taps) - taps[0] - 1) < 1e-12


@pytest.mark.parametrize(
    "options",
    [
        {"force": "both"},
        {"update": "exp"},
        {"kernel": "median"},
        {"iterations": (1,), "shrink": (1, 2)},
        {"shrink": (0,), "iterations": (1,)},
        {"alpha": 0},
        {"max_step": -1.0},
        {"sigma_diffusion": 99.0},
        {"mask": torch.ones(1, 1, 4, 4)},
    ],
)
def test_what_does_not_fit_is_said(options):
    moving, fixed = blobs(1, 16, 16)
    with pytest.raises(UserError, match="demons: "):
        demons(moving, fixed, **options)


def test_unequal_sizes_are_a_value_error():
    with pytest.raises(ValueError, match="one size"):
        demons(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 9))
