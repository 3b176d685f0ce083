"""Group normalisation and SiLU: ours against torch's two layers, in the sizes of the shipped inpainters.

python benchmarks/norm.py > benchmarks/results/norm.txt

Sixteen channels-last images (eight windows, doubled by guidance), one thread, CPU time, medians; both take turns.
"""

import time

import torch

from cxrsynth.ops import build_info
from cxrsynth.ops.norm import norm_silu, norm_silu_reference

REPEATS = 60


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    print(build_info(), f"torch {torch.__version__}")
    print("dtype      channels  size    ours, us   torch, us   ratio   largest difference")
    for dtype in (torch.float32, torch.bfloat16):
        for channels, size in ((64, 24), (96, 12), (192, 12), (96, 6)):
            x = torch.randn(16, channels, size, size).to(dtype).contiguous(memory_format=torch.channels_last)
            weight, bias, shift = torch.randn(channels), torch.randn(channels), torch.randn(16, channels)
            ours = (x, 16, weight, bias, 1e-6, shift)
            theirs = (x, 16, weight.to(dtype), bias.to(dtype), 1e-6, shift.to(dtype))
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(REPEATS):
                for spent, function, arguments in zip(
                    times, (norm_silu, norm_silu_reference), (ours, theirs), strict=True
                ):
                    begin = time.process_time()
                    function(*arguments)
                    spent.append(time.process_time() - begin)
            own, peer = (sorted(spent)[REPEATS // 2] * 1e6 for spent in times)
            exact = norm_silu_reference(x.double(), 16, weight.double(), bias.double(), 1e-6, shift.double())
            difference = (norm_silu(*ours) - exact).abs().max()
            name = str(dtype).removeprefix("torch.")
            print(f"{name:10s} {channels:8d} {size:5d} {own:11.0f} {peer:11.0f} {peer / own:7.1f} {difference:20.2e}")


if __name__ == "__main__":
    main()
