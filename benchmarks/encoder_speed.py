"""Forward speed of ViT-L/16 at 512 pixels against DINOv2's plain blocks and timm, one core, in turns.

python benchmarks/encoder_speed.py --core 0 > benchmarks/results/encoder_speed.txt

The plain encoder is what DINOv2's code does where xFormers is missing: attention as softmax(q k^T) v in full, the rest
alike, with the same weights, so the results are compared as well. timm is measured where it can be imported; it needs
torchvision, which does not install beside this project's torch, so give its folder and that of a stub with --timm.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cxrsynth.encoder import ViT
from cxrsynth.encoder.layers import Attention


def plain_attention(self: Attention, x: Tensor) -> Tensor:
    """DINOv2's own attention: all weights at once."""
    batch, length, dim = x.shape
    qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0] * (dim // self.num_heads) ** -0.5, qkv[1], qkv[2]
    weights = (query @ key.transpose(-2, -1)).softmax(dim=-1)
    return self.proj((weights @ value).transpose(1, 2).reshape(batch, length, dim))


def cpu_medians(methods: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each method, which what else runs on the core does not change much; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats + 1):
        for name, method in methods.items():
            start = time.process_time()
            method()
            times[name].append(time.process_time() - start)
    return {name: float(np.median(values[1:])) for name, values in times.items()}  # the first use fills caches


class PlainAttention(Attention):
    """`Attention` with the weights written out."""

    forward = plain_attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--depth", type=int, default=24, help="fewer blocks for a quick look; the ratio hardly changes")
    parser.add_argument("--timm", nargs="*", default=[], help="folders to import timm and its needs from")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    image = torch.randn(1, 3, 512, 512)
    ours = ViT(depth=options.depth, layer_scale=0.1).eval()
    plain = ViT(depth=options.depth, layer_scale=0.1).eval()
    plain.load_state_dict(ours.state_dict())
    for block in plain.blocks:
        block.attn.__class__ = PlainAttention
    methods: dict[str, Callable[[], object]] = {
        "cxrsynth": lambda: ours.tokens(image).cls,
        "DINOv2's plain blocks": lambda: plain.tokens(image).cls,
    }
    sys.path[:0] = options.timm
    try:
        import timm
        from timm.layers import SwiGLU

        theirs = timm.create_model(
            "vit_large_patch16_224",
            img_size=512,
            depth=options.depth,
            reg_tokens=4,
            no_embed_class=True,
            init_values=0.1,
            mlp_layer=SwiGLU,
            mlp_ratio=2736 / 1024,
            num_classes=0,
        ).eval()
        parameters = sum(p.numel() for p in theirs.parameters())
        methods[f"timm {timm.__version__} ({parameters:,} parameters)"] = lambda: theirs.forward_features(image)
    except ImportError as error:
        print(f"timm is not measured: {error}")
    with torch.inference_mode():
        difference = (ours.tokens(image).cls - plain.tokens(image).cls).norm() / plain.tokens(image).cls.norm()
        times = cpu_medians(methods, options.repeats)
    print(
        f"ViT-L/16, {options.depth} blocks, one 512x512 image, float32, one core; "
        f"median CPU seconds of {options.repeats} forwards, in turns"
    )
    print(
        f"{sum(p.numel() for p in ours.parameters()):,} parameters; "
        f"cls differs from the plain blocks' by {difference:.1e}"
    )
    for name, seconds in times.items():
        print(f"{name:45s} {seconds:7.2f} s   {seconds / times['cxrsynth']:.2f} x cxrsynth's time")


if __name__ == "__main__":
    main()
