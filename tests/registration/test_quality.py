"""The presets on known smooth fields, beside SimpleITK's Demons (50/30/10 iterations, sigma 2.5) and OpenCV's DIS."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cxrsynth.ops import warp
from cxrsynth.registration import ACCURATE, QUICK, Registration, from_itk, register, to_itk

SIZE, REACH = 512, 12.0  # pixels a side; largest displacement


def textures() -> list[Tensor]:
    """Clouds of three sizes."""
    octaves = (F.interpolate(torch.rand(2, 1, n, n), (SIZE, SIZE), mode="bicubic") / n for n in (6, 20, 60))
    return list((6 * sum(octaves)).split(1))


def films(folder) -> list[Tensor]:
    """Real chest films: much black background and large flat regions."""
    paths = sorted((folder / "cxr" / "images").glob("*.jpg"))[:600:200]
    pictures = (Image.open(path).convert("L").resize((SIZE, SIZE), Image.Resampling.BICUBIC) for path in paths)
    return [torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None, None] for picture in pictures]


def known(images: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Triples of moving image, fixed image and field between them."""
    triples = []
    for image in images:
        field = F.interpolate(torch.randn(1, 2, 4, 4), (SIZE, SIZE), mode="bicubic")
        field *= REACH / field.norm(dim=1).max()
        triples.append((image, warp(image, field), field))
    return triples


def error(found: Tensor, field: Tensor) -> float:
    """Mean end-point error in pixels."""
    return (found - field).norm(dim=1).mean().item()


def by_simpleitk(moving: Tensor, fixed: Tensor) -> Tensor:
    sitk = pytest.importorskip("SimpleITK")
    field = torch.zeros(1, 2, 1, 1)
    for shrink, count in ((4, 50), (2, 30), (1, 10)):
        size = SIZE // shrink, SIZE // shrink
        small = [F.interpolate(image * 255, size, mode="bilinear", antialias=True) for image in (fixed, moving)]
        field = F.interpolate(field, size, mode="bilinear") * 2
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(count)
        demons.SetStandardDeviations(2.5)
        demons.SetMaximumUpdateStepLength(1.0)
        images = [sitk.GetImageFromArray(image[0, 0].numpy()) for image in small]
        start = sitk.GetImageFromArray(to_itk(field), isVector=True)
        field = from_itk(sitk.GetArrayFromImage(demons.Execute(*images, start))).float()
    return field


def by_dis(moving: Tensor, fixed: Tensor) -> Tensor:
    cv2 = pytest.importorskip("cv2")
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    images = [(image[0, 0].numpy() * 255).clip(0, 255).astype(np.uint8) for image in (fixed, moving)]
    return torch.from_numpy(flow.calc(*images, None)).permute(2, 0, 1)[None]


def check(triples: list[tuple[Tensor, Tensor, Tensor]]) -> None:
    ours, simpleitk, quick, dis = [], [], [], []
    for moving, fixed, field in triples:
        accurate, fast = (register(moving, fixed, **preset) for preset in (ACCURATE, QUICK))
        assert accurate.min_jacobian.item() > 0.3
        assert fast.min_jacobian.item() > 0.3
        ours.append(error(accurate.displacement, field))
        quick.append(error(fast.displacement, field))
        simpleitk.append(error(by_simpleitk(moving, fixed), field))
        dis.append(error(by_dis(moving, fixed), field))
    assert np.mean(ours) <= 1.05 * np.mean(simpleitk)
    assert np.mean(quick) <= np.mean(dis)


def test_presets_on_textures():
    check(known(textures()))


def test_presets_on_films(shared):
    check(known(films(shared)))


def test_a_preset_also_makes_a_module():
    moving, fixed, _ = known(textures())[0]
    assert torch.equal(Registration(**QUICK)(moving, fixed).displacement, register(moving, fixed, **QUICK).displacement)
