"""What must hold of every registration, whatever its options."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from cxrsynth.errors import UserError
from cxrsynth.ops import warp
from cxrsynth.registration import register

VARIANTS = list(
    itertools.product(["two_force", "esm", "thirion"], ["additive", "diffeomorphic"], ["gaussian", "itk", "box"])
)
RESULTS = ("displacement", "warped", "mse", "rms_update", "min_jacobian")


def images(batch=1, height=57, width=70):
    moving = F.interpolate(torch.rand(batch, 1, 10, 10), (height, width), mode="bicubic")
    field = F.interpolate(torch.randn(batch, 2, 4, 4), (height, width), mode="bicubic")
    return moving, warp(moving, field)


def options(force, update, kernel):
    return {"force": force, "update": update, "kernel": kernel, "iterations": (5, 4, 3), "sigma_fluid": 0.7}


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_an_image_is_itself(variant):
    image, _ = images()
    found = register(image, image, **options(*variant))
    assert not found.displacement.any()
    assert torch.equal(found.warped, image)
    assert not found.mse.any()
    assert (found.min_jacobian == 1).all()


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_neither_batch_nor_threads_change_a_bit(variant):
    moving, fixed = images(3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [register(moving[i : i + 1], fixed[i : i + 1], **options(*variant)) for i in range(3)]
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            together = register(moving, fixed, **options(*variant))
            last = register(moving[2:], fixed[2:], **options(*variant))
            for name in RESULTS:
                expected = torch.cat([getattr(item, name) for item in alone])
                assert torch.equal(getattr(together, name), expected), (name, count)
                assert torch.equal(getattr(last, name), expected[2:]), (name, count)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_nan_and_flat_images_do_no_harm(variant):
    moving, fixed = images()
    nan = torch.full_like(moving, torch.nan)
    spoilt = fixed.clone()
    spoilt[..., 10:14, 20:24], spoilt[..., 40, 40] = torch.nan, torch.inf
    flat = torch.full_like(moving, 0.5)
    for a, b in ((moving, spoilt), (spoilt, moving), (moving, flat), (flat, fixed), (moving, nan), (nan, fixed)):
        found = register(a, b, **options(*variant))
        assert found.displacement.isfinite().all()
        assert found.mse.isfinite().all()
        assert found.rms_update.isfinite().all()
    assert not register(flat, flat, **options(*variant)).displacement.any()
    assert not register(nan, fixed, **options(*variant)).displacement.any()


def test_a_spoilt_item_leaves_its_neighbours_alone():
    moving, fixed = images(2)
    alone = register(moving[1:], fixed[1:]).displacement
    moving[0] = torch.nan
    assert torch.equal(register(moving, fixed).displacement[1:], alone)


def test_mirrored_and_transposed_images_give_the_mirrored_and_transposed_field():
    moving, fixed = (image.double() for image in images())
    found = register(moving, fixed).displacement
    sideways = register(moving.flip(3), fixed.flip(3)).displacement.flip(3)
    sideways[:, 0] *= -1
    torch.testing.assert_close(sideways, found, rtol=0, atol=1e-6)
    turned = register(moving.transpose(2, 3), fixed.transpose(2, 3)).displacement
    torch.testing.assert_close(turned.transpose(2, 3).flip(1), found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("force", ["two_force", "esm", "thirion"])
def test_exposure_does_not_matter(force):
    moving, fixed = (image.double() for image in images())
    expected = register(moving, fixed, force=force).displacement
    found = register(1000 * moving - 300, 1000 * fixed - 300, force=force).displacement
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_frame_does_not_pull():
    moving, fixed = images()
    spoilt = fixed.clone()
    spoilt[..., :3, :], spoilt[..., -3:, :], spoilt[..., :3], spoilt[..., -3:] = 0, 1, 1, 0
    one_level = {"iterations": (6,), "shrink": (1,), "margin": 4}  # gradients reach one pixel further
    assert torch.equal(
        register(moving, spoilt, **one_level).displacement, register(moving, fixed, **one_level).displacement
    )
    mask = (torch.rand_like(fixed) > 0.5).float()
    inner = F.pad(mask[..., 4:-4, 4:-4], (4, 4, 4, 4))
    one_level.pop("margin")
    assert torch.equal(
        register(moving, fixed, mask=mask, margin=4, **one_level).displacement,
        register(moving, fixed, mask=inner, **one_level).displacement,
    )


@pytest.mark.parametrize("margin", [-1, 29])
def test_a_frame_that_leaves_nothing_is_refused(margin):
    with pytest.raises(UserError, match="register: margin is"):
        register(*images(), margin=margin)
