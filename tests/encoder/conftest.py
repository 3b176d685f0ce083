"""Files as the authors publish them, and what their networks make of an image, written down from the papers."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F


def make_vit_file(
    image_size=32, patch=8, dim=48, depth=6, chunks=3, registers=4, ffn="swiglu", hidden=None, layer_scale=True
) -> dict[str, Tensor]:
    """Random weights of an encoder under the published names, without what stands before them."""
    shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + (image_size // patch) ** 2, dim),
        "mask_token": (1, dim),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, dim)
    hidden = hidden or (4 * dim if ffn == "mlp" else (int(8 * dim / 3) + 7) // 8 * 8)
    ffns = {
        "mlp": {"mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)},
        "swiglu": {"mlp.w12": (2 * hidden, dim), "mlp.w3": (dim, hidden)},
    }
    for i in range(depth):
        at = f"blocks.{i}." if not chunks else f"blocks.{i // (depth // chunks)}.{i}."
        for name, (rows, columns) in {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), **ffns[ffn]}.items():
            shapes |= {f"{at}{name}.weight": (rows, columns), f"{at}{name}.bias": (rows,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"{at}{name}.weight": (dim,), f"{at}{name}.bias": (dim,)}
        if layer_scale:
            shapes |= {f"{at}ls1.gamma": (dim,), f"{at}ls2.gamma": (dim,)}
    return {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def run_vit(file: dict[str, Tensor], x: Tensor, heads: int, offset: float, antialias: bool) -> list[Tensor]:
    """Every block's tokens `[B, 1 + R + N, D]` after the final norm (DINOv2, arXiv 2304.07193)."""
    dim, _, patch, _ = file["patch_embed.proj.weight"].shape
    batch, _, height, width = x.shape
    rows, columns = height // patch, width // patch
    unfolded = F.unfold(x, patch, stride=patch).transpose(1, 2)
    patches = unfolded @ file["patch_embed.proj.weight"].flatten(1).T + file["patch_embed.proj.bias"]
    tokens = torch.cat([file["cls_token"].expand(batch, -1, -1), patches], 1)
    cls, grid = file["pos_embed"][:, :1], file["pos_embed"][:, 1:]
    side = math.isqrt(grid.shape[1])
    if (rows, columns) != (side, side):
        grid = grid.view(1, side, side, dim).permute(0, 3, 1, 2)
        scale = ((rows + offset) / side, (columns + offset) / side) if offset else None
        size = None if offset else (rows, columns)
        grid = F.interpolate(grid, size=size, scale_factor=scale, mode="bicubic", antialias=antialias)
        grid = grid.permute(0, 2, 3, 1).reshape(1, rows * columns, dim)
    tokens = tokens + torch.cat([cls, grid], 1)
    if "register_tokens" in file:
        tokens = torch.cat([tokens[:, :1], file["register_tokens"].expand(batch, -1, -1), tokens[:, 1:]], 1)

    def norm(t: Tensor, name: str) -> Tensor:
        centred = t - t.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * file[name + "weight"]
            + file[name + "bias"]
        )

    def linear(t: Tensor, name: str) -> Tensor:
        return t @ file[name + ".weight"].T + file[name + ".bias"]

    def ffn(t: Tensor, at: str) -> Tensor:
        if at + "mlp.fc1.weight" in file:
            hidden = linear(t, at + "mlp.fc1")
            return linear(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2, at + "mlp.fc2")
        gate, value = linear(t, at + "mlp.w12").chunk(2, -1)
        return linear(gate * gate.sigmoid() * value, at + "mlp.w3")

    order = {int(name.removesuffix(".norm1.weight").split(".")[-1]): name for name in file if ".norm1.weight" in name}
    outputs = []
    for _, name in sorted(order.items()):
        at = name.removesuffix("norm1.weight")
        qkv = linear(norm(tokens, at + "norm1."), at + "attn.qkv").view(batch, -1, 3, heads, dim // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) / (dim // heads) ** 0.5).softmax(-1)
        update = linear((weights @ value).transpose(1, 2).flatten(2), at + "attn.proj")
        tokens = tokens + update * file.get(at + "ls1.gamma", torch.ones(1))
        update = ffn(norm(tokens, at + "norm2."), at)
        tokens = tokens + update * file.get(at + "ls2.gamma", torch.ones(1))
        outputs.append(norm(tokens, "norm."))
    return outputs


@pytest.fixture
def vit_file():
    return make_vit_file


@pytest.fixture
def vit_forward():
    return run_vit
