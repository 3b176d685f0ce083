"""Warp on the CPU against cv2.remap, grid_sample and MONAI: bilinear, nearest and gradients, one and three channels.

python benchmarks/warp.py [--sizes 256 512 1024 2048] [--threads 1 2] [--repeats 15] > benchmarks/results/warp.txt

Wall time, medians of alternating repeats; "ratio" is against ours. The peers' maps and grids are made beforehand.
"memory alone" (torch.addcmul) reads what a warp reads and writes what it writes, and computes next to nothing.
"""

import argparse
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from timing import medians, threads
from torch import Tensor

try:
    from monai.networks.blocks import Warp
except ImportError:
    Warp = None

from cxrsynth.ops import build_info, warp
from cxrsynth.registration import to_grid_sample

REACH = 12.0  # pixels


def inputs(size: int, channels: int) -> tuple[Tensor, Tensor]:
    """An image, and a smooth displacement as registration makes them."""
    torch.manual_seed(0)
    field = F.interpolate(torch.randn(1, 2, 8, 8), (size, size), mode="bicubic")
    return torch.rand(1, channels, size, size), field * (REACH / field.norm(dim=1).max())


def opencv(image: Tensor, field: Tensor, mode: str) -> Callable[[], object]:
    size = image.shape[-1]
    x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    maps = x + field[0, 0].numpy(), y + field[0, 1].numpy()
    picture = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())  # OpenCV's own layout
    flag = {"bilinear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}[mode]
    return lambda: cv2.remap(picture, *maps, flag, borderMode=cv2.BORDER_REPLICATE)


def torch_grid(image: Tensor, field: Tensor, mode: str) -> Callable[[], object]:
    grid = to_grid_sample(field, align_corners=True)
    return lambda: F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=True)


def monai(image: Tensor, field: Tensor, mode: str) -> Callable[[], object]:
    layer, rows_first = Warp(mode=mode, padding_mode="border"), field.flip(1).contiguous()
    return lambda: layer(image, rows_first)


def streams(image: Tensor, field: Tensor) -> Callable[[], object]:
    """Not a warp: reads image and displacement once and writes an image, in strips that stay in the cache."""
    out, (x, y), rows = torch.empty_like(image), field[0], range(0, image.shape[2], 32)
    strips = [slice(row, row + 32) for row in rows] if image.shape[1] > 1 else [slice(None)]

    def read_and_write() -> None:
        for strip in strips:
            for channel in range(image.shape[1]):
                torch.addcmul(image[0, channel, strip], x[strip], y[strip], out=out[0, channel, strip])

    return read_and_write


def with_gradients(function: Callable[[Tensor, Tensor], Tensor], image: Tensor, steering: Tensor) -> Callable:
    """Forward and backward, for the image and for what steers the warp."""
    image, steering = image.clone().requires_grad_(), steering.clone().requires_grad_()
    weight = torch.rand_like(image)
    return lambda: torch.autograd.grad(function(image, steering), (image, steering), weight)


def methods(size: int, channels: int, kind: str) -> dict[str, Callable[[], object]]:
    image, field = inputs(size, channels)
    if kind == "gradients":
        sample = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
        return {
            "cxrsynth": with_gradients(warp, image, field),
            "grid_sample": with_gradients(
                lambda i, g: F.grid_sample(i, g, **sample), image, to_grid_sample(field, align_corners=True)
            ),
        }
    return {
        "cxrsynth": lambda: warp(image, field, kind),
        "cv2.remap": opencv(image, field, kind),
        "grid_sample": torch_grid(image, field, kind),
        "memory alone": streams(image, field),
        **({"MONAI Warp": monai(image, field, kind)} if Warp else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    print(build_info())
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}, MONAI {'measured' if Warp else 'not installed'}")
    print("ns per pixel and channel; ratio: time of the method / time of cxrsynth")
    print(f"{'threads':>7s} {'size':>5s} {'channels':>8s} {'kind':10s} {'method':12s} {'ns':>8s} {'ratio':>7s}")
    for count in options.threads:
        with threads(count):
            for size in options.sizes:
                for kind in ("bilinear", "nearest", "gradients"):
                    for channels in (1, 3):
                        spent = medians(methods(size, channels, kind), options.repeats)
                        for name, time in spent.items():
                            ns = time / size**2 / channels * 1e9
                            ratio = time / spent["cxrsynth"]
                            row = f"{count:7d} {size:5d} {channels:8d} {kind:10s} {name:12s}"
                            print(f"{row} {ns:8.2f} {ratio:7.1f}", flush=True)


if __name__ == "__main__":
    main()
