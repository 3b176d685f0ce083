"""Encoders from files: CheXFound's teacher, DINOv2's releases and this program's own checkpoints."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxrsynth.encoder.lora import merge_lora
from cxrsynth.encoder.vit import ViT
from cxrsynth.encoder.weights import load_strictly, read_weights
from cxrsynth.errors import UserError

OWN_ENTRY = "cxrsynth_encoder"
"""Key in this program's Lightning checkpoints: `{"config": ViT arguments, "prefix": where its weights are}`."""

_HEADS = ("dino_head.", "ibot_head.")
_CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")
_WRAPPERS = re.compile(r"(^|\.)(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)(?=\.)")


def load_encoder(
    path: str | Path,
    *,
    num_heads: int | None = None,
    interpolate_offset: float = 0.1,
    interpolate_antialias: bool = False,
) -> ViT:
    """Load an encoder in eval mode, float32, on the CPU.

    Understands CheXFound's published file (`{"teacher": {"backbone.…"}}`, blocks chunked or flat), DINOv2's release
    (bare names), folders of shards of either, fp16 or bf16 weights, and checkpoints of `DINOTask` (its moving-average
    teacher) and `GLoRITask`. All sizes are read from the weights.

    Args:
        path: The file.
        num_heads: Attention heads, which published files do not store; None takes width / 64.
        interpolate_offset: DINOv2's offset when the position embedding is resized.
        interpolate_antialias: Whether that resize is antialiased.

    Raises:
        UserError: No encoder in the file, or missing, unexpected or mis-shaped keys, all of them named.
    """
    raw = read_weights(path)
    state, names = encoder_weights(raw, path)
    config = raw[OWN_ENTRY]["config"] if OWN_ENTRY in raw else infer_config(state, names, num_heads, path)
    if num_heads is not None:
        config = {**config, "num_heads": num_heads}
    with torch.device("meta"):
        encoder = ViT(
            **{
                **config,
                "interpolate_offset": interpolate_offset,
                "interpolate_antialias": interpolate_antialias,
                "drop_path": 0.0,
            }
        )
    load_strictly(encoder, state, names, path)
    return encoder.eval()


def encoder_weights(raw: Mapping[str, Any], path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The encoder's weights in a file under `ViT`'s names, and for each the name that it has in the file.

    Raises:
        UserError: The file holds no weights of an encoder, or others beside it than the DINO and iBOT heads.
    """
    prefix = "backbone."
    if OWN_ENTRY in raw:
        prefix = raw[OWN_ENTRY]["prefix"]
        entries = {key: value for key, value in raw["state_dict"].items() if key.startswith(prefix)}
        if "lora" in raw[OWN_ENTRY]:
            entries = merge_lora(entries, **raw[OWN_ENTRY]["lora"])
    else:
        entries = dict(raw["teacher"] if isinstance(raw.get("teacher"), Mapping) else raw)
    state: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for original, value in entries.items():
        key = _WRAPPERS.sub("", original).removeprefix(".").removeprefix("module.")
        if key.startswith(_HEADS):
            continue
        key = _CHUNK.sub(r"blocks.\1.", key.removeprefix(prefix))
        if key in state or not isinstance(value, Tensor):
            kind = "stands twice" if key in state else f"is a {type(value).__name__}, not a tensor"
            raise UserError(f"{path}: {original!r} {kind}; give a file that holds one encoder and nothing else")
        state[key], names[key] = value, original
    return state, names


def infer_config(
    state: Mapping[str, Tensor], names: Mapping[str, str], num_heads: int | None, path: str | Path
) -> dict[str, Any]:
    """The `ViT` arguments that a published file was made with, from the shapes of its weights.

    Raises:
        UserError: The weights that tell the sizes are missing, or the number of heads cannot be guessed.
    """
    needed = {"pos_embed": 3, "patch_embed.proj.weight": 4}
    missing = [key for key, dims in needed.items() if key not in state or state[key].ndim != dims]
    blocks = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    if missing or not blocks:
        found = [names[key] for key in state if not key.startswith("blocks.")] or ["nothing"]
        raise UserError(
            f"{path} holds no encoder: missing or mis-shaped {', '.join(missing) or 'blocks'}; "
            f"found {', '.join(found[:20])}; give CheXFound's or DINOv2's published file"
        )
    dim, _, patch_size, _ = state["patch_embed.proj.weight"].shape
    side = math.isqrt(state["pos_embed"].shape[1] - 1)
    if side * side != state["pos_embed"].shape[1] - 1:
        raise UserError(
            f"{path}: pos_embed stands for {state['pos_embed'].shape[1] - 1} patches, which make no square; "
            "only encoders with a square position embedding can be loaded"
        )
    if num_heads is None and dim % 64:
        raise UserError(f"{path} has width {dim}, which is no multiple of 64, so its heads are unknown; give num_heads")
    hidden = [state[key].shape[-1] for key in state if key.endswith((".mlp.w3.weight", ".mlp.fc2.weight"))]
    registers = state.get("register_tokens")
    return {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "dim": dim,
        "depth": max(blocks) + 1,
        "num_heads": num_heads or dim // 64,
        "registers": 0 if registers is None else registers.shape[1],
        "ffn": "mlp" if any(".mlp.fc1." in key for key in state) else "swiglu",
        "ffn_hidden": max(hidden, key=hidden.count) if hidden else None,
        "layer_scale": 1e-5 if any(".ls1." in key or ".ls2." in key for key in state) else None,
    }


def inspect_encoder(path: str | Path, num_heads: int | None = None) -> dict[str, Any]:
    """What a file of weights holds: layout, sizes and number of parameters, without building the network in memory.

    Raises:
        UserError: As `load_encoder`, except that the number of heads may stay unknown (None).
    """
    raw = read_weights(path)
    state, names = encoder_weights(raw, path)
    if OWN_ENTRY in raw:
        layout, config = "cxrsynth checkpoint", dict(raw[OWN_ENTRY]["config"])
    else:
        layout = "CheXFound teacher" if "teacher" in raw else "DINOv2 release"
        chunked = any(_CHUNK.match(name.removeprefix("backbone.")) for name in names.values())
        layout += ", chunked blocks" if chunked else ", flat blocks"
        guess = num_heads or (1 if state["cls_token"].shape[-1] % 64 else None) if "cls_token" in state else num_heads
        config = infer_config(state, names, guess, path)
        if num_heads is None and config["dim"] % 64:
            config["num_heads"] = None
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})
    parameters = sum(value.numel() for value in state.values())
    return {"layout": layout, **config, "parameters": parameters, "dtypes": dtypes}
