"""Demons on the CPU against its peers: time of an iteration, then time and quality of whole registrations.

python benchmarks/registration.py [--folder ../shared/cxr] > benchmarks/results/registration.txt

Wall time, medians of repeats in which all methods take turns. One thread is held on one core.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from PIL import Image
from timing import medians, threads
from torch import Tensor

from cxrsynth.ops import build_info, demons, demons_reference, warp
from cxrsynth.ops.extension import kernels
from cxrsynth.registration import ACCURATE, QUICK, from_itk, jacobian_determinant, register

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


def simpleitk(moving: Tensor, fixed: Tensor, count: int, sigma: float, start=None, kind="FastSymmetricForces"):
    f = getattr(sitk, f"{kind}DemonsRegistrationFilter")()
    f.SetNumberOfIterations(count)
    f.SetStandardDeviations(sigma)
    f.SetNumberOfThreads(torch.get_num_threads())
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


def on_path(path: str, function: Callable[[int], object]) -> Callable[[int], object]:
    """The function, computed by one of the CPU's instruction sets."""

    def call(count: int) -> object:
        best = kernels().current_path()
        kernels().set_path(path)
        try:
            return function(count)
        finally:
            kernels().set_path(best)

    return call


def compiled() -> Callable:
    """torch.compile of one iteration of the reference, esm at sigma 1."""

    def iteration(moving: Tensor, fixed: Tensor, u: Tensor) -> Tensor:
        options = {"iterations": (1,), "shrink": (1,), "force": "esm", "sigma_diffusion": 1.0}
        return demons_reference(moving, fixed, initial_field=u, **options)[0]

    return torch.compile(iteration)


def iterated(iteration: Callable, moving: Tensor, fixed: Tensor, count: int) -> Tensor:
    u = torch.zeros_like(moving).repeat(1, 2, 1, 1)
    for _ in range(count):
        u = iteration(moving, fixed, u)
    return u


# A method does `few` and `many` iterations: the difference is free of what happens once.
Case = tuple[Callable[[int], object], int, int]


def cases(size: int, folder: Path | None, compile_reference: Callable | None) -> dict[str, Case]:
    moving, fixed, _ = film(size, 0, folder)
    options = {"shrink": (1,), "sigma_diffusion": 1.0}
    found: dict[str, Case] = {}
    for path in sorted(kernels().usable_paths(), key=lambda path: path != kernels().current_path()):
        for force in ("esm", "two_force", "thirion"):
            ours = lambda n, force=force: demons(moving, fixed, iterations=(n,), force=force, **options)  # noqa: E731
            found[f"cxrsynth {force} {path}"] = (on_path(path, ours), 4, 20)
    for kind in ("FastSymmetricForces", "", "Diffeomorphic", "SymmetricForces"):
        itk = lambda n, kind=kind: simpleitk(moving * 255, fixed * 255, n, 1.0, kind=kind)  # noqa: E731
        found[f"SimpleITK {kind or 'Demons'}"] = (itk, 1, 3)
    found["OpenCV + numpy loop, esm"] = (lambda n: opencv(moving, fixed, n, 1.0), 2, 8)
    eager = lambda n: demons_reference(moving, fixed, iterations=(n,), force="esm", **options)  # noqa: E731
    found["torch eager, esm"] = (eager, 1, 3)
    if compile_reference:
        found["torch.compile, esm"] = (lambda n: iterated(compile_reference, moving, fixed, n), 1, 3)
    return found


def iterations(
    sizes: list[int], counts: list[int], repeats: int, folder: Path | None, compiles: bool, only: list[str]
) -> None:
    print("\nOne iteration at sigma 1, ns per pixel (more iterations minus fewer); ratio to the first row")
    print(f"{'threads':>7s} {'size':>5s} {'method':34s} {'ns/px/it':>9s} {'ratio':>7s}")
    for count in counts:
        for size in sizes:
            with threads(count):
                methods = cases(size, folder, compiled() if compiles else None)
                methods = {name: case for name, case in methods.items() if not only or any(o in name for o in only)}
                runs = {(name, n): (lambda f=f, n=n: f(n)) for name, (f, *both) in methods.items() for n in both}
                spent = medians(runs, repeats)
            ns = {
                name: (spent[name, many] - spent[name, few]) / (many - few) / size**2 * 1e9
                for name, (_, few, many) in methods.items()
            }
            first = next(iter(ns.values()))
            for name, value in ns.items():
                print(f"{count:7d} {size:5d} {name:34s} {value:9.2f} {value / first:7.1f}", flush=True)


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


def flow(preset: int) -> Callable[[Tensor, Tensor], Tensor]:
    """OpenCV's dense inverse search, on 8-bit images as it demands."""
    dis = cv2.DISOpticalFlow_create(preset)

    def call(moving: Tensor, fixed: Tensor) -> Tensor:
        images = [(i[0, 0].numpy() * 255).clip(0, 255).astype(np.uint8) for i in (fixed, moving)]
        return torch.from_numpy(dis.calc(*images, None)).permute(2, 0, 1)[None]

    return call


SIMPLEITK = "SimpleITK FastSymmetric 50/30/10 s 2.5"
METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cxrsynth ACCURATE": lambda m, f: register(m, f, **ACCURATE).displacement,
    "cxrsynth QUICK": lambda m, f: register(m, f, **QUICK).displacement,
    "cxrsynth default (two_force, sigma 2)": lambda m, f: register(m, f).displacement,
    SIMPLEITK: lambda m, f: itk_pyramid(m, f, (50, 30, 10), 2.5),
    "OpenCV DIS ultrafast": flow(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
    "OpenCV DIS fast": flow(cv2.DISOPTICAL_FLOW_PRESET_FAST),
    "OpenCV DIS medium": flow(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
}


def quality(moving: Tensor, fixed: Tensor, truth: Tensor, field: Tensor) -> list[float]:
    """Mean and 95th percentile of the error, correlation, smallest Jacobian, folded share."""
    error = (field - truth).norm(dim=1).flatten()
    jacobian = jacobian_determinant(field)
    pair = torch.stack([warp(moving, field).flatten(), fixed.flatten()])
    figures = error.mean(), error.quantile(0.95), torch.corrcoef(pair)[0, 1], jacobian.min()
    return [float(x) for x in (*figures, (jacobian <= 0).float().mean())]


def whole(count: int, repeats: int, folder: Path | None) -> None:
    print(f"\nWhole registrations of {count} images at 512x512, known smooth field of up to {REACH:g} px, one thread")
    print("medians of time, means of quality, smallest Jacobian of all images; ratio: SimpleITK's time / time")
    print(f"{'method':38s} {'ms':>8s} {'ratio':>6s} {'EPE':>6s} {'p95':>6s} {'NCC':>7s} {'min J':>6s} {'folded':>8s}")
    rows: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    with threads(1):
        for index in range(count):
            moving, fixed, truth = film(512, index, folder)
            calls = {name: (lambda f=f, m=moving, x=fixed: f(m, x)) for name, f in METHODS.items()}
            spent = medians(calls, repeats)
            for name, method in METHODS.items():
                rows[name].append([spent[name] * 1e3, *quality(moving, fixed, truth, method(moving, fixed))])
    reference = np.median([row[0] for row in rows[SIMPLEITK]])
    for name, values in rows.items():
        table = np.array(values)
        ms, smallest = np.median(table[:, 0]), table[:, 4].min()
        _, epe, p95, correlation, _, folded = table.mean(0)
        times = f"{name:38s} {ms:8.1f} {reference / ms:6.1f}"
        print(f"{times} {epe:6.3f} {p95:6.3f} {correlation:7.4f} {smallest:6.2f} {folded:8.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="real images in FOLDER/images/*.jpg; synthetic texture without")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=10, help="of the table of quality")
    parser.add_argument("--repeats", type=int, default=15, help="of each iteration; whole registrations take a third")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which compiles for minutes")
    parser.add_argument("--only", nargs="+", default=[], help="iterations of the methods with these in their names")
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    print(
        build_info(), f"torch {torch.__version__}, SimpleITK {sitk.Version.VersionString()}, OpenCV {cv2.__version__}"
    )
    if options.images:
        whole(options.images, max(options.repeats // 3, 1), options.folder)
    sizes, counts = options.sizes, options.threads
    iterations(sizes, counts, options.repeats, options.folder, not options.no_compile, options.only)


if __name__ == "__main__":
    main()
