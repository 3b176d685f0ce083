"""kernel="itk" against SimpleITK itself: one iteration to 1e-5 px, twenty to 1e-2 px for 99.9 % of the pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cxrsynth.ops import warp
from cxrsynth.registration import from_itk, register, to_itk

sitk = pytest.importorskip("SimpleITK")

FILTERS = {
    "thirion": (sitk.DemonsRegistrationFilter, {"force": "thirion"}),
    "esm": (sitk.FastSymmetricForcesDemonsRegistrationFilter, {"force": "esm", "max_step": 0.5}),
    "diffeomorphic": (
        sitk.DiffeomorphicDemonsRegistrationFilter,
        {"force": "esm", "update": "diffeomorphic", "max_step": 0.5},
    ),
    "long_steps": (
        sitk.DiffeomorphicDemonsRegistrationFilter,
        {"force": "esm", "update": "diffeomorphic", "max_step": 2.0},
    ),
}


def images():
    """Smooth 8-bit-like images, deformed by up to some pixels."""
    moving = F.interpolate(torch.rand(1, 1, 12, 12), (72, 90), mode="bicubic") * 255
    field = F.interpolate(torch.randn(1, 2, 4, 4), (72, 90), mode="bicubic") * 2
    return moving, warp(moving, field)


def by_simpleitk(name, moving, fixed, count, sigma, initial=None):
    filter_class, options = FILTERS[name]
    demons = filter_class()
    demons.SetNumberOfIterations(count)
    demons.SetMaximumRMSError(0)
    demons.SetSmoothDisplacementField(sigma > 0)
    demons.SetStandardDeviations(sigma)
    if "max_step" in options:
        demons.SetMaximumUpdateStepLength(options["max_step"])
    inputs = [sitk.GetImageFromArray(image[0, 0].numpy()) for image in (fixed, moving)]
    if initial is not None:
        inputs.append(sitk.GetImageFromArray(to_itk(initial), isVector=True))
    return from_itk(sitk.GetArrayFromImage(demons.Execute(*inputs)))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("count", "sigma", "quantile", "tolerance"),
    [(1, 0.0, 1.0, 1e-5), (1, 1.0, 1.0, 1e-5), (1, 2.0, 1.0, 1e-5), (20, 1.0, 0.999, 1e-2), (20, 2.0, 0.999, 1e-2)],
)
def test_simpleitk_finds_the_same_field(name, sigma, count, quantile, tolerance):
    moving, fixed = images()
    ours = register(
        moving, fixed, kernel="itk", iterations=(count,), shrink=(1,), sigma_diffusion=sigma, **FILTERS[name][1]
    ).displacement
    error = (ours - by_simpleitk(name, moving, fixed, count, sigma)).norm(dim=1)
    assert np.quantile(error.numpy(), quantile) <= tolerance
    assert ours.norm(dim=1).max() > 0.1


@pytest.mark.parametrize("name", FILTERS)
def test_simpleitk_takes_the_same_step_from_an_initial_field(name):
    moving, fixed = images()
    initial = F.interpolate(torch.randn(1, 2, 4, 4), (72, 90), mode="bicubic") * 4  # some samples fall outside
    ours = register(
        moving, fixed, kernel="itk", iterations=(1,), shrink=(1,), sigma_diffusion=1.0, initial_field=initial,
        **FILTERS[name][1],
    ).displacement  # fmt: skip
    error = (ours - by_simpleitk(name, moving, fixed, 1, 1.0, initial.double())).norm(dim=1)
    assert error.max() <= 1e-5 * 4  # float32 of a field of some 15 pixels
