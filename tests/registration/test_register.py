import pytest
import torch
import torch.nn.functional as F

from cxrsynth.ops import warp
from cxrsynth.registration import Registration, register


def texture(height=96, width=96, dtype=torch.float64):
    """A smooth image that is wider than the piece of it that is looked at."""
    return F.interpolate(torch.rand(1, 1, 14, 14, dtype=dtype), (height + 32, width + 32), mode="bicubic")


@pytest.mark.parametrize("force", ["esm", "thirion"])
@pytest.mark.parametrize("update", ["additive", "diffeomorphic"])
def test_a_translation_is_recovered(force, update):
    image = texture()
    fixed, moving = image[..., 16:-16, 16:-16], image[..., 14:-18, 19:-13]
    found = register(moving, fixed, force=force, update=update, sigma_diffusion=1.0, iterations=(60, 60, 60))
    inner = found.displacement[..., 24:-24, 24:-24]
    expected = torch.tensor([-3.0, 2.0], dtype=torch.float64).view(1, 2, 1, 1).expand_as(inner)
    error = (inner - expected).norm(dim=1)
    assert error.mean() < 0.03
    assert error.max() < 0.3


def test_identical_images_stay_where_they_are():
    image = texture()
    assert not register(image, image).displacement.any()


def test_a_known_smooth_field_is_recovered_without_folding():
    moving = texture(128, 128)
    field = F.interpolate(torch.randn(1, 2, 4, 4, dtype=torch.float64), moving.shape[-2:], mode="bicubic") * 2
    found = register(moving, warp(moving, field), force="esm", sigma_diffusion=1.0, iterations=(40, 30, 20))
    error = (found.displacement - field)[..., 12:-12, 12:-12].norm(dim=1)
    assert error.mean() < 0.1 * field.norm(dim=1).mean()
    assert found.min_jacobian.item() > 0
    assert found.mse[0, -1] < 0.01 * found.mse[0, 0]
    torch.testing.assert_close(found.warped, warp(moving, found.displacement))


def test_module_equals_function():
    a, b = texture(32, 32), texture(32, 32)
    module = Registration(force="esm", iterations=(3,), shrink=(1,))
    expected = register(a, b, force="esm", iterations=(3,), shrink=(1,))
    assert torch.equal(module(a, b).displacement, expected.displacement)
    assert not list(module.parameters())
