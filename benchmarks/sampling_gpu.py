"""Sampling speed on a GPU against MONAI's RFlowScheduler loop: same UNet weights, noise, steps and dtype, in turns.

python benchmarks/sampling_gpu.py phantom > benchmarks/results/sampling_gpu.txt

The peer is that of sampling.py. Ours replays CUDA graphs, with weights kept in bfloat16 where it computes in it, and
one kernel for each normalisation with its SiLU. Two networks: the package's small one, whose forwards are bound by the
time that it takes to start kernels, and the one of paper.yaml with random weights, bound by arithmetic. Peak memory:
what torch reserves in a process of its own for each.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from sampling import WEIGHT, Peer, Request, ours, psnr, set_bf16, theirs
from timing import medians
from torch import Tensor

from cxrsynth.inpainting import InpaintingTask, load_inpainter

LARGE = {"size": 256, "channels": [64, 128, 256, 256], "attention": [False, False, True, True]}  # of paper.yaml


def network(name: str) -> InpaintingTask:
    if name != "large":
        return load_inpainter(name).to("cuda").eval()
    torch.manual_seed(0)
    task = InpaintingTask(findings=["Effusion", "Nodule"], bf16=True, **LARGE)
    with torch.no_grad():
        for weight in task.painter.parameters():  # MONAI starts the last layers at 0
            weight += 0.01 * torch.randn_like(weight)
    return task.to("cuda").eval()


def methods(task: InpaintingTask, images: int, steps: int, half: bool) -> dict[str, Callable[[], Tensor]]:
    request, peer = Request(task, images).to("cuda"), Peer(task).to("cuda")

    def own() -> Tensor:
        set_bf16(task, half)
        return ours(task, request, solver="euler", steps=steps, warp=1.0, guidance=WEIGHT)

    def peers(doubled: bool) -> Tensor:
        set_bf16(task, False)  # the peer asks our embedder; autocast decides
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            return theirs(peer, request, steps, doubled)

    return {"cxrsynth": own, "MONAI, one forward": partial(peers, True), "MONAI, two forwards": partial(peers, False)}


def finished(method: Callable[[], Tensor]) -> Tensor:
    result = method()
    torch.cuda.synchronize()
    return result


def memory(checkpoint: str, images: int, steps: int, half: bool, who: str) -> float:
    command = [sys.executable, __file__, checkpoint, "--only", who, "--images", str(images), "--steps", str(steps)]
    command += ["--half"] if half else []
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="a small inpainter, or 'large'")
    parser.add_argument("--images", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--large-images", type=int, nargs="*", default=[8])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("ours", "theirs"), help="run three times and print the memory reserved, MiB")
    parser.add_argument("--half", action="store_true")
    options = parser.parse_args()
    if options.only:
        chosen = methods(network(options.checkpoint), options.images[0], options.steps, options.half)
        for _ in range(3):
            finished(chosen["cxrsynth" if options.only == "ours" else "MONAI, one forward"])
        print(torch.cuda.max_memory_reserved() / 2**20)
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {options.steps} Euler steps, guidance {WEIGHT}")
    for name, counts in ((options.checkpoint, options.images), ("large", options.large_images)):
        if not counts:
            continue
        task = network(name)
        size, weights = task.hparams["size"], sum(p.numel() for p in task.painter.parameters())
        print(f"{name}: {weights / 1e6:.1f} million weights, windows of {size} pixels")
        for count in counts:
            exact = None
            for half in (False, True):
                chosen = methods(task, count, options.steps, half)
                times = medians({label: partial(finished, run) for label, run in chosen.items()}, options.repeats)
                theirs_best = min(value for label, value in times.items() if label.startswith("MONAI"))
                ratio = theirs_best / times["cxrsynth"]
                found = [chosen[label]() for label in ("cxrsynth", "MONAI, two forwards")]
                region = Request(task, count).to("cuda").region
                exact = found[0] if exact is None else exact
                print(
                    f"{'bfloat16' if half else 'float32':8s} {count:4d} images: "
                    + ", ".join(f"{label} {count / value:.1f}" for label, value in times.items())
                    + f" images a second; ratio {ratio:.2f}; PSNR to MONAI's {psnr(*found, region):.1f} dB"
                    + (f", to our float32 {psnr(found[0], exact, region):.1f} dB" if half else ""),
                    flush=True,
                )
    for half in (False, True):
        count, dtype = options.images[-1], "bfloat16" if half else "float32"
        mine, other = (memory(options.checkpoint, count, 4, half, who) for who in ("ours", "theirs"))
        print(f"memory, {count} images, {dtype}: {mine:.0f} MiB, MONAI's {other:.0f}")


if __name__ == "__main__":
    main()
