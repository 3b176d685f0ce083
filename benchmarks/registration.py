"""Demons on the CPU against its peers: time of an iteration, then time and quality of whole registrations.

python benchmarks/registration.py [--folder ../shared/cxr] > benchmarks/results/registration.txt

One thread, CPU time of the process (other work on the machine is not counted), smallest of the repeats;
all methods alternate within one run.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cxrsynth.ops import build_info, demons, demons_reference, warp
from cxrsynth.ops.extension import kernels
from cxrsynth.registration import from_itk, jacobian_determinant

REACH = 12.0  # largest displacement of the known field, in pixels at 512


def film(size: int, index: int, folder: Path | None) -> tuple[Tensor, Tensor, Tensor]:
    """A moving image, a fixed one and the smooth field between them."""
    generator = torch.Generator().manual_seed(index)
    if folder:
        path = sorted((folder / "images").glob("*.jpg"))[index * 37]
        image = Image.open(path).convert("L").resize((size, size), Image.Resampling.BICUBIC)
        moving = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None, None]
    else:
        octaves = (
            F.interpolate(torch.rand(1, 1, n, n, generator=generator), (size, size), mode="bicubic")
            for n in (6, 20, 60)
        )
        moving = sum(octave / 2**i for i, octave in enumerate(octaves))
    field = F.interpolate(torch.randn(1, 2, 4, 4, generator=generator), (size, size), mode="bicubic")
    field *= REACH * size / 512 / field.norm(dim=1).max()
    return moving, warp(moving, field), field


def seconds(function: Callable[[], object], repeats: int) -> float:
    """CPU time of the process where one thread works."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def simpleitk(moving: Tensor, fixed: Tensor, count: int, sigma: float, start=None, kind="FastSymmetricForces"):
    f = getattr(sitk, f"{kind}DemonsRegistrationFilter")()
    f.SetNumberOfIterations(count)
    f.SetStandardDeviations(sigma)
    f.SetNumberOfThreads(1)
    if hasattr(f, "SetMaximumUpdateStepLength"):
        f.SetMaximumUpdateStepLength(1.0)
    images = [sitk.GetImageFromArray(image[0, 0].numpy()) for image in (fixed, moving)]
    return f.Execute(*images, *([start] if start is not None else []))


def opencv(moving: Tensor, fixed: Tensor, count: int, sigma: float) -> Tensor:
    """The loop that users write: remap, gradients, force, GaussianBlur."""
    m, f = moving[0, 0].numpy(), fixed[0, 0].numpy()
    height, width = f.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    u, v = np.zeros_like(f), np.zeros_like(f)
    central = {"ddepth": cv2.CV_32F, "scale": 0.5, "borderType": cv2.BORDER_REPLICATE}
    rx, ry = cv2.Sobel(f, dx=1, dy=0, ksize=1, **central), cv2.Sobel(f, dx=0, dy=1, ksize=1, **central)
    for _ in range(count):
        w = cv2.remap(m, x + u, y + v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        jx = rx + cv2.Sobel(w, dx=1, dy=0, ksize=1, **central)
        jy = ry + cv2.Sobel(w, dx=0, dy=1, ksize=1, **central)
        d = f - w
        scale = 2 * d / (jx * jx + jy * jy + d * d + 1e-12)
        u = cv2.GaussianBlur(u + scale * jx, (5, 5), sigma, borderType=cv2.BORDER_REPLICATE)
        v = cv2.GaussianBlur(v + scale * jy, (5, 5), sigma, borderType=cv2.BORDER_REPLICATE)
    return torch.from_numpy(np.stack([u, v]))[None]


def iterations(sizes: list[int], folder: Path | None) -> None:
    print("\nOne iteration at sigma 1, ns per pixel (more iterations minus fewer)")
    print(f"{'size':>5s} {'method':34s} {'ns/px/it':>9s} {'ratio':>7s}")
    for size in sizes:
        moving, fixed, _ = film(size, 0, folder)

        def ours(count, force="esm", moving=moving, fixed=fixed):
            return demons(moving, fixed, iterations=(count,), shrink=(1,), force=force, sigma_diffusion=1.0)

        def eager(count, moving=moving, fixed=fixed):
            return demons_reference(moving, fixed, iterations=(count,), shrink=(1,), force="esm", sigma_diffusion=1.0)

        cases: dict[str, tuple[Callable, int, int, int, str]] = {}
        for path in reversed(kernels().usable_paths()):
            for force in ("esm", "two_force", "thirion"):
                cases[f"cxrsynth {force} {path}"] = (lambda n, force=force: ours(n, force), 4, 20, 9, path)
        best = kernels().current_path()
        for kind in ("FastSymmetricForces", "", "Diffeomorphic", "SymmetricForces"):
            itk = lambda n, kind=kind, m=moving, f=fixed: simpleitk(m * 255, f * 255, n, 1.0, kind=kind)  # noqa: E731
            cases[f"SimpleITK {kind or 'Demons'}"] = (itk, 1, 3, 2, best)
        cases["OpenCV + numpy loop, esm"] = (lambda n, m=moving, f=fixed: opencv(m, f, n, 1.0), 2, 8, 3, best)
        cases["torch eager, esm"] = (eager, 1, 3, 2, best)
        base = None
        for name, (function, few, many, repeats, path) in cases.items():
            kernels().set_path(path)
            spent = seconds(lambda f=function, n=many: f(n), repeats) - seconds(lambda f=function, n=few: f(n), repeats)
            value = spent / (many - few) / size**2 * 1e9
            base = base or value
            print(f"{size:5d} {name:34s} {value:9.2f} {value / base:7.1f}", flush=True)
        kernels().set_path(best)


def itk_pyramid(moving: Tensor, fixed: Tensor, counts: tuple[int, ...], sigma: float) -> Tensor:
    field = None
    for shrink, count in zip((4, 2, 1), counts, strict=True):
        size = moving.shape[-2] // shrink, moving.shape[-1] // shrink
        small = [F.interpolate(i * 255, size, mode="bilinear", antialias=True) for i in (moving, fixed)]
        if field is not None:
            field = F.interpolate(field, size, mode="bilinear") * 2
            start = sitk.GetImageFromArray(field[0].permute(1, 2, 0).double().numpy(), isVector=True)
        field = from_itk(
            sitk.GetArrayFromImage(simpleitk(*small, count, sigma, None if field is None else start))
        ).float()
    return field


def whole(count: int, folder: Path | None) -> None:
    print(f"\nWhole registrations of {count} images at 512x512 with a known smooth field of up to {REACH:g} px")
    head = f"{'method':38s} {'ms':>8s} {'EPE':>6s} {'p95':>6s} {'NCC':>7s} {'min J':>6s} {'folded':>8s}"
    print(head)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flow(moving, fixed):
        images = [(i[0, 0].numpy() * 255).clip(0, 255).astype(np.uint8) for i in (fixed, moving)]
        return torch.from_numpy(dis.calc(*images, None)).permute(2, 0, 1)[None]

    methods = {
        "cxrsynth default (two_force, sigma 2)": lambda m, f: demons(m, f)[0],
        "cxrsynth esm 50/30/10 sigma 2": lambda m, f: demons(m, f, force="esm", iterations=(50, 30, 10))[0],
        "cxrsynth esm 40/20/10 sigma 1.5": lambda m, f: demons(
            m, f, force="esm", iterations=(40, 20, 10), sigma_diffusion=1.5
        )[0],
        "cxrsynth quick (two_force 15/10/2)": lambda m, f: demons(m, f, iterations=(15, 10, 2))[0],
        "SimpleITK FastSymmetric 50/30/10 s 2.5": lambda m, f: itk_pyramid(m, f, (50, 30, 10), 2.5),
        "OpenCV DIS medium": flow,
    }
    rows: dict[str, list] = {name: [] for name in methods}
    for index in range(count):
        moving, fixed, truth = film(512, index, folder)
        for name, method in methods.items():
            spent = seconds(lambda f=method, m=moving, x=fixed: f(m, x), 3 if "ITK" not in name else 1)
            field = method(moving, fixed)
            error = (field - truth).norm(dim=1).flatten()
            jacobian = jacobian_determinant(field)
            warped = warp(moving, field)
            ncc = torch.corrcoef(torch.stack([warped.flatten(), fixed.flatten()]))[0, 1]
            share = (jacobian <= 0).float().mean()
            rows[name].append([spent * 1e3, error.mean(), error.quantile(0.95), ncc, jacobian.min(), share])
    for name, values in rows.items():
        table = np.array(values, dtype=float)
        ms, epe, p95, correlation, _, folded = table.mean(0)
        ms = np.median(table[:, 0])
        print(f"{name:38s} {ms:8.1f} {epe:6.3f} {p95:6.3f} {correlation:7.4f} {table[:, 4].min():6.2f} {folded:8.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="real images in FOLDER/images/*.jpg; synthetic texture without")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--images", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    print(
        build_info(), f"torch {torch.__version__}, SimpleITK {sitk.Version.VersionString()}, OpenCV {cv2.__version__}"
    )
    whole(options.images, options.folder)
    iterations(options.sizes, options.folder)


if __name__ == "__main__":
    main()
