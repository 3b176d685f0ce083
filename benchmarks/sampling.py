"""Sampling speed on one core against MONAI's RFlowScheduler loop: same UNet weights, noise and steps, in turns.

python benchmarks/sampling.py phantom --student STUDENT > benchmarks/results/sampling.txt

The peer is MONAI's DiffusionModelUNet as MONAI builds it, in the loop that RFlowScheduler's documentation shows, with
classifier-free guidance in two forwards or in one of twice the batch, whichever is faster. Seconds are CPU seconds,
which what else runs on the machine does not change much. Peak memory: of a process of its own for each.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor, nn

from cxrsynth import precision
from cxrsynth.inpainting import InpaintingTask, load_inpainter
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.coupling import couple
from cxrsynth.inpainting.inpaint import paint
from cxrsynth.inpainting.unet import VelocityUNet

WEIGHT = 2.0  # of guidance


class Request:
    """What both are asked: noise into regions of random films, a finding each."""

    def __init__(self, task: InpaintingTask, images: int):
        size, findings = task.hparams["size"], list(task.hparams["findings"])
        chance = torch.Generator().manual_seed(0)
        self.image = torch.rand(images, 1, size, size, generator=chance)
        self.region = torch.zeros_like(self.image)
        self.region[..., size // 4 : -size // 4, size // 4 : -size // 4] = 1
        self.coordinates = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="xy"))[None]
        self.coordinates = self.coordinates.repeat(images, 1, 1, 1)
        asked = [[findings[row % len(findings)]] for row in range(images)]
        self.condition = Condition.from_names(asked, findings)
        self.seeds = range(images)

    def noise(self) -> Tensor:
        """As `paint` draws it, one seed an image."""
        side = self.image.shape[-1]
        each = [torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(seed)) for seed in self.seeds]
        return torch.cat(each).to(self.image.device)

    def to(self, device: str) -> "Request":
        """The same on a device."""
        for name in ("image", "region", "coordinates", "condition"):
            setattr(self, name, getattr(self, name).to(device))
        return self


def ours(task: InpaintingTask, request: Request, **settings: Any) -> Tensor:
    given = request.image, request.region, request.coordinates, request.condition
    return paint(*given, velocity=task.painter, seeds=request.seeds, **settings)


class Peer(nn.Module):
    """MONAI's network with our weights; what surrounds it in ours (fold, preconditioning) is plain torch here too."""

    def __init__(self, task: InpaintingTask):
        super().__init__()
        hp, field = task.hparams, task.painter
        assert isinstance(field, VelocityUNet), "the peer is MONAI's UNet"
        self.patch, self.field = hp["patch"], field
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=4 * self.patch**2,
            out_channels=self.patch**2,
            channels=tuple(hp["channels"]),
            attention_levels=tuple(hp["attention"]),
            num_res_blocks=hp["num_res_blocks"],
            num_head_channels=hp["head_channels"],
            norm_num_groups=hp["norm_groups"],
            with_conditioning=True,
            cross_attention_dim=field.embed.states.shape[-1],
            num_class_embeds=1,
        )
        self.unet.class_embedding = nn.Identity()
        self.unet.load_state_dict({name: value.contiguous() for name, value in field.unet.state_dict().items()})
        self.eval()

    def forward(self, x: Tensor, t: Tensor, region: Tensor, coordinates: Tensor, told: Any) -> Tensor:
        """Velocity, as `VelocityUNet` gives it."""
        folded = nn.functional.pixel_unshuffle(torch.cat([x, region, coordinates], 1), self.patch)
        terms = self.field.parametrisation(t)
        out = self.unet(folded, terms.time, context=told.tokens, class_labels=told.vector)
        return region * terms.velocity(x, nn.functional.pixel_shuffle(out, self.patch))


@torch.no_grad()
def theirs(peer: Peer, request: Request, steps: int, doubled: bool) -> Tensor:
    scheduler = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=True)
    scheduler.set_timesteps(num_inference_steps=steps)
    asked, nothing = peer.field.embed(request.condition), peer.field.embed(request.condition.as_unknown())
    both = type(asked)(*(torch.cat([getattr(e, n) for e in (nothing, asked)]) for n in ("tokens", "vector")))
    region, where = request.region, request.coordinates
    x = couple(2 * request.image - 1, region, request.noise())
    following = torch.cat((scheduler.timesteps[1:], torch.tensor([0], dtype=scheduler.timesteps.dtype)))
    for t, after in zip(scheduler.timesteps, following, strict=True):
        time_in = x.new_full((len(x),), 1 - float(t) / 1000)
        if doubled:
            twice = [torch.cat([part] * 2) for part in (x, time_in, region, where)]
            plain, told = peer(*twice, both).chunk(2)
        else:
            plain, told = peer(x, time_in, region, where, nothing), peer(x, time_in, region, where, asked)
        x, _ = scheduler.step(plain + WEIGHT * (told - plain), t, x, after)
    return (x.clamp(-1, 1) + 1) / 2


def seconds(methods: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Median CPU seconds; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(repeats + 1):
        for name, method in methods.items():
            begin = time.process_time()
            method()
            if turn:  # the first use fills caches
                times[name].append(time.process_time() - begin)
    return {name: float(np.median(values)) for name, values in times.items()}


def psnr(a: Tensor, b: Tensor, region: Tensor) -> float:
    """Over the painted pixels of images in [0, 1], dB."""
    return float(-10 * torch.log10(((a - b).square() * region).sum() / region.sum()))


def set_bf16(task: InpaintingTask, half: bool) -> None:
    """Whether a network of ours computes in bfloat16 where the machine has it."""
    field: Any = task.painter
    field = getattr(field, "field", field)  # of a few-step student
    field.bf16 = field.embed.bf16 = half


def half_precision(checkpoint: str, steps: int) -> float:
    """PSNR of two images painted in bfloat16 against float32, also where the machine computes bfloat16 in software."""
    task = load_inpainter(checkpoint)
    request = Request(task, 2)
    settings = {"solver": "euler", "steps": steps, "warp": 1.0, "guidance": WEIGHT}
    results = []
    for half in (False, True):
        precision.has_bf16.cache_clear()
        known, precision.has_bf16 = precision.has_bf16, lambda kind: True  # type: ignore[assignment]
        set_bf16(task, half)
        results.append(ours(task, request, **settings))
        precision.has_bf16 = known
    return psnr(*results, request.region)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--student")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("ours", "theirs"), help="run once and print the process's peak memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    task = load_inpainter(options.checkpoint)
    request, count = Request(task, options.images), options.images
    settings = {"solver": "euler", "steps": options.steps, "warp": 1.0, "guidance": WEIGHT}
    if options.only:
        if options.only == "ours":
            ours(task, request, **settings)
        else:
            theirs(Peer(task), request, options.steps, doubled=True)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    peer = Peer(task)
    student = load_inpainter(options.student) if options.student else None

    def own(half: bool) -> Tensor:
        set_bf16(task, half)
        return ours(task, request, **settings)

    def students(half: bool) -> Tensor:
        assert student is not None
        set_bf16(student, half)
        return ours(student, request, solver="jump", steps=4, guidance=student.hparams["guidance"])

    def peers(half: bool, doubled: bool) -> Tensor:
        set_bf16(task, False)  # the peer asks our embedder; autocast decides
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return theirs(peer, request, options.steps, doubled)

    methods: dict[str, Callable[[], Tensor]] = {}
    for half in (False, True) if precision.has_bf16("cpu") else (False,):
        name = ", bfloat16" if half else ""
        methods |= {
            f"cxrsynth{name}": partial(own, half),
            f"MONAI, one forward of twice the batch{name}": partial(peers, half, True),
            f"MONAI, two forwards{name}": partial(peers, half, False),
        }
        if student:
            methods[f"cxrsynth, student, 4 steps{name}"] = partial(students, half)
    times = seconds(methods, options.repeats)
    plain, halved = (
        min(
            (value for name, value in times.items() if name.startswith("MONAI") and ("bfloat16" in name) == half),
            default=0,
        )
        for half in (False, True)
    )
    print(
        f"{count} windows of {task.hparams['size']} pixels, {options.steps} Euler steps, one core; float32 unless said"
    )
    for name, value in times.items():
        same = f"   {halved / value:5.2f} x MONAI's in bfloat16" if "bfloat16" in name else ""
        print(f"{name:50s} {count / value:7.2f} images a second   {plain / value:5.2f} x MONAI's in float32{same}")
    agree = psnr(methods["cxrsynth"](), methods["MONAI, two forwards"](), request.region)
    print(f"PSNR of the two samplers' images: {agree:.1f} dB")
    if options.student:
        for steps in (10, 20, 50):
            own_time = times["cxrsynth, student, 4 steps"]
            ratio, scale = plain / own_time, steps / options.steps
            print(
                f"student in 4 steps against MONAI's loop in {steps}: {ratio * scale:.1f} x (time grows with the steps)"
            )
    for who in ("ours", "theirs"):
        command = [sys.executable, __file__, options.checkpoint, "--only", who, "--images", str(count)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        print(f"peak memory, {who}: {float(found):.0f} MiB")
    print(f"PSNR of bfloat16 against float32: {half_precision(options.checkpoint, options.steps):.1f} dB")
    if not precision.has_bf16("cpu"):
        print("this machine has no bfloat16 in hardware: its speed was not measured")


if __name__ == "__main__":
    main()
