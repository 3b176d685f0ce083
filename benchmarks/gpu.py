"""Demons and warp on the GPU: time of an iteration and of a warp against the floor of memory, and against torch.

python benchmarks/gpu.py           the table
python benchmarks/gpu.py --check   small cases of every kernel, for compute-sanitizer
"""

import argparse
import itertools
from functools import partial

import torch
import torch.nn.functional as F

from cxrsynth.ops import build_info, demons, demons_reference, warp
from cxrsynth.ops.norm import norm_silu, norm_silu_reference
from cxrsynth.registration import to_grid_sample

DEVICE = "cuda"


def images(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    moving = F.interpolate(torch.rand(batch, 1, 24, 24, device=DEVICE), (size, size), mode="bicubic")
    field = F.interpolate(torch.randn(batch, 2, 5, 5, device=DEVICE), (size, size), mode="bicubic") * 3
    return moving, warp(moving, field), field


def milliseconds(function, repeats: int = 9, calls: int = 10) -> float:
    """GPU time of a call, by a graph of several, so that it does not matter how long starting a kernel takes."""
    function()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    return elapsed(graph.replay, repeats) / calls


def elapsed(function, repeats: int = 9) -> float:
    """Median of single calls, by CUDA events."""
    times = []
    for _ in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[2:])[repeats // 2]


def check() -> None:
    """Every kernel: a block holds a level of 37x41, tiles do 73x81, and sigma 4 is wider than a tile's halo."""
    for dtype in (torch.float32, torch.float64):
        moving, fixed, field = (image[..., :73, :].to(dtype) for image in images(2, 81))
        wanted = moving.clone().requires_grad_(), field.clone().requires_grad_()
        for mode in ("bilinear", "nearest"):
            torch.autograd.grad(warp(*wanted, mode).sum(), wanted, allow_unused=True)
        options = itertools.product(
            ("two_force", "esm", "thirion"), ("additive", "diffeomorphic"), ("gaussian", "itk"), (0.0, 1.0), (1.0, 4.0)
        )
        for force, update, kernel, fluid, diffusion in options:
            demons(
                moving, fixed, iterations=(2, 2), shrink=(2, 1), force=force, update=update, kernel=kernel,
                sigma_fluid=fluid, sigma_diffusion=diffusion, mask=torch.ones_like(fixed), initial_field=field, tol=0.1,
            )  # fmt: skip
    for size, half in itertools.product((9, 40), (False, True)):
        x = torch.randn(2, 64, size, size, device=DEVICE, dtype=torch.bfloat16 if half else torch.float32)
        factors = torch.ones(64, device=DEVICE)
        norm_silu(x.contiguous(memory_format=torch.channels_last), 8, factors, factors)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    print("every kernel ran")


def table() -> None:
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    print(f"{'demons, esm, sigma 1':28s} {'ns/px/it':>10s} {'GB/s of 24 B/px':>16s} {'torch eager':>12s} {'ratio':>7s}")
    for batch, size in ((1, 64), (64, 64), (1, 256), (1, 512), (1, 1024), (8, 512), (64, 1024), (4, 2048)):
        moving, fixed, _ = images(batch, size)
        options = {"shrink": (1,), "force": "esm", "sigma_diffusion": 1.0}

        def run(timer, function, count, moving=moving, fixed=fixed, options=options):
            return timer(lambda: function(moving, fixed, iterations=(count,), **options), 7)

        once = partial(milliseconds, calls=1)
        ours = (run(once, demons, 40) - run(once, demons, 10)) / 30
        eager = (run(elapsed, demons_reference, 6) - run(elapsed, demons_reference, 2)) / 4
        pixels = batch * size * size
        print(
            f"{batch:3d} x {size:4d} x {size:4d}            {ours * 1e6 / pixels:10.4f} {24e-6 * pixels / ours:16.0f} "
            f"{eager * 1e6 / pixels:12.3f} {eager / ours:7.1f}"
        )
    print(f"{'register 30/20/5, sigma 2':28s} {'ms':>10s} {'called':>10s}")
    for batch, size in ((1, 512), (64, 512)):
        moving, fixed, _ = images(batch, size)
        print(
            f"{batch:3d} x {size:4d} x {size:4d}            "
            f"{milliseconds(lambda m=moving, f=fixed: demons(m, f), calls=1):10.2f} "
            f"{elapsed(lambda m=moving, f=fixed: demons(m, f)):10.2f}"
        )
    print(f"{'warp':28s} {'ns/px':>10s} {'grid_sample':>12s} {'ratio':>7s}")
    for batch, channels, size in ((1, 1, 1024), (64, 1, 1024), (16, 3, 1024)):
        moving, _, field = images(batch, size)
        image = moving.repeat(1, channels, 1, 1)
        grid = to_grid_sample(field)
        ours = milliseconds(lambda i=image, f=field: warp(i, f))
        theirs = milliseconds(lambda i=image, g=grid: F.grid_sample(i, g, padding_mode="border", align_corners=False))
        pixels = batch * size * size
        name = f"{batch:3d} x {channels} x {size} x {size}"
        print(f"{name:28s} {ours * 1e6 / pixels:10.4f} {theirs * 1e6 / pixels:12.4f} {theirs / ours:7.2f}")
    print(f"{'norm_silu':28s} {'GB/s read, written':>18s} {'torch layers':>13s} {'ratio':>7s}")
    for batch, channels, size in ((16, 64, 24), (128, 64, 24), (512, 64, 24), (16, 128, 128), (16, 64, 256)):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(batch, channels, size, size, device=DEVICE, dtype=dtype)
            x, factors = x.contiguous(memory_format=torch.channels_last), torch.randn(channels, device=DEVICE)
            cast = factors.to(dtype)
            with torch.no_grad():
                ours = milliseconds(lambda x=x, w=factors: norm_silu(x, 8, w, w))
                theirs = milliseconds(lambda x=x, w=cast: norm_silu_reference(x, 8, w, w))
            moved = 2e-6 * x.numel() * x.element_size()
            name = f"{batch} x {channels} x {size} x {size}, {'float32' if dtype == torch.float32 else 'bfloat16'}"
            print(f"{name:28s} {moved / ours:18.0f} {moved / theirs:13.0f} {theirs / ours:7.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() or not build_info()["cuda"]:
        parser.error("needs a GPU and kernels built with CUDA")
    check() if arguments.check else table()
