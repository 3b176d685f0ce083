"""Convolutions of 3 x 3 in float32: ours against torch's (oneDNN), in the sizes of the shipped inpainters and beyond.

python benchmarks/convolution.py > benchmarks/results/convolution.txt

Sixteen channels-last images (eight windows, doubled by guidance), one thread, CPU time, medians; both take turns. The
error is the standard deviation of the difference from float64, in parts of the result's.
"""

import time

import torch
from torch.nn import functional as F

from cxrsynth.ops import build_info
from cxrsynth.ops.convolution import conv3x3, filter_points

REPEATS = 40
SIZES = ((64, 64, 24), (128, 64, 24), (160, 64, 24), (96, 96, 12), (192, 96, 12), (32, 32, 64), (128, 128, 64))


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    print(build_info(), f"torch {torch.__version__}")
    print("channels      size   ours, ms  torch, ms  ratio   error of ours   of torch's")
    for inside, outside, size in SIZES:
        x = torch.randn(16, inside, size, size).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(outside, inside, 3, 3).contiguous(memory_format=torch.channels_last)
        bias, points = torch.randn(outside), filter_points(weight)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPEATS):
            begin = time.process_time()
            ours = conv3x3(x, weight, bias, lambda points=points: points)
            times[0].append(time.process_time() - begin)
            begin = time.process_time()
            theirs = F.conv2d(x, weight, bias, padding=1)
            times[1].append(time.process_time() - begin)
        exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
        own, peer = (sorted(spent)[REPEATS // 2] * 1e3 for spent in times)
        errors = [float((found - exact).std() / exact.std()) for found in (ours, theirs)]
        print(
            f"{inside:4d} -> {outside:3d} {size:6d} {own:10.2f} {peer:10.2f} {peer / own:6.2f} {errors[0]:15.1e} "
            f"{errors[1]:12.1e}"
        )


if __name__ == "__main__":
    main()
