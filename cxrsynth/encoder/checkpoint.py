"""Encoders from files: CheXFound's teacher, DINOv2's releases and this program's own checkpoints."""

import inspect
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxrsynth.encoder.lora import merge_lora
from cxrsynth.encoder.naming import Naming, find_naming, is_head, plain
from cxrsynth.encoder.vit import ViT
from cxrsynth.encoder.weights import load_strictly, read_weights
from cxrsynth.errors import UserError

OWN_ENTRY = "cxrsynth_encoder"
"""Key in this program's Lightning checkpoints: `{"config": ViT arguments, "prefix": where its weights are}`."""


def load_encoder(
    path: str | Path,
    *,
    num_heads: int | None = None,
    interpolate_offset: float | None = None,
    interpolate_antialias: bool | None = None,
    contrast: str | None = None,
) -> ViT:
    """Load an encoder in eval mode, float32, on the CPU.

    Understands CheXFound's published file (`{"teacher": {"backbone.…"}}`, blocks chunked or flat), DINOv2's release
    (bare names), shards of either (a folder or an index), `torch.save` or safetensors, fp16 or bf16 weights, and
    checkpoints of `DINOTask` (its moving-average teacher) and `GLoRITask`. All sizes are read from the weights.
    DINOv2's models with registers were made with `interpolate_offset=0` and `interpolate_antialias=True`.

    Args:
        path: The file (see `read_weights`).
        num_heads: Attention heads, which published files do not store; None takes width / 64.
        interpolate_offset: DINOv2's offset when the position embedding is resized, at least 0 and below 1; this and the
            next two are in this program's own checkpoints alone. None takes what the file says, else 0.1.
        interpolate_antialias: Whether that resize is antialiased; None as the file says, else not.
        contrast: What `forward` does to images first (see `preprocess.CONTRASTS`); None as the file says, else "plain",
            as in CheXFound's pretraining. Its classifier was evaluated with "stretch".

    Raises:
        UserError: No encoder in the file, or missing, unexpected or mis-shaped keys, all of them named.
    """
    raw = read_weights(path)
    state, names, naming = encoder_weights(raw, path)
    config = _own(raw, path)["config"] if OWN_ENTRY in raw else infer_config(state, names, num_heads, path)
    given = {
        "num_heads": num_heads,
        "interpolate_offset": interpolate_offset,
        "interpolate_antialias": interpolate_antialias,
        "contrast": contrast,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    with torch.device("meta"):
        encoder = ViT(**{**config, **chosen, "drop_path": 0.0})
    load_strictly(encoder, state, {key: naming.theirs(key) for key in encoder.state_dict()} | names, path)
    return encoder.eval()


def encoder_weights(raw: Mapping[str, Any], path: str | Path) -> tuple[dict[str, Tensor], dict[str, str], Naming]:
    """The encoder's weights in a file under `ViT`'s names, for each the name that it has in the file, and their rule.

    Raises:
        UserError: Something in the place of the encoder's weights is no tensor, or stands twice.
    """
    if OWN_ENTRY in raw:
        own = _own(raw, path)
        entries = {key: value for key, value in raw["state_dict"].items() if key.startswith(own["prefix"])}
        if "lora" in own:
            entries = merge_lora(entries, **own["lora"])
        naming = Naming(own["prefix"])
    else:
        teacher = raw["teacher"] if isinstance(raw.get("teacher"), Mapping) else raw
        entries = {key: value for key, value in teacher.items() if not is_head(plain(key))}
        naming = find_naming(map(plain, entries))
    state: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for original, value in entries.items():
        key = naming.ours(plain(original))
        if key in state or not isinstance(value, Tensor):
            kind = "stands twice" if key in state else f"is a {type(value).__name__}, not a tensor"
            raise UserError(f"{path}: {original!r} {kind}; give a file that holds one encoder and nothing else")
        state[key], names[key] = value, original
    return state, names, naming


def infer_config(
    state: Mapping[str, Tensor], names: Mapping[str, str], num_heads: int | None, path: str | Path
) -> dict[str, Any]:
    """The `ViT` arguments that a published file was made with, from the shapes of its weights.

    Raises:
        UserError: The weights that tell the sizes are missing, or the number of heads cannot be guessed.
    """
    needed = {"pos_embed": 3, "patch_embed.proj.weight": 4}
    missing = [
        key for key, dims in needed.items() if key not in state or state[key].ndim != dims or not state[key].numel()
    ]
    blocks = Counter(int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key)))
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
        # a block with few of the usual weights is a misspelt name of another block, to be refused as unexpected
        "depth": 1 + max(index for index, count in blocks.items() if 2 * count > max(blocks.values())),
        "num_heads": num_heads or dim // 64,
        "registers": registers.shape[1] if registers is not None and registers.ndim == 3 else 0,
        "ffn": "mlp" if _mostly(state, ".mlp.fc1.", ".mlp.w12.") else "swiglu",
        "ffn_hidden": max(hidden, key=hidden.count) if hidden else None,
        "layer_scale": 1e-5 if any(".ls1." in key or ".ls2." in key for key in state) else None,
    }


def inspect_encoder(path: str | Path, num_heads: int | None = None) -> dict[str, Any]:
    """What a file of weights holds: layout, sizes and number of parameters, without building the network in memory.

    Args:
        path: The file (see `read_weights`).
        num_heads: As for `load_encoder`; where it is not given and cannot be guessed, the result has None.

    Raises:
        UserError: As `load_encoder`.
    """
    raw = read_weights(path)
    state, names, naming = encoder_weights(raw, path)
    if OWN_ENTRY in raw:
        layout, config = "cxrsynth checkpoint", dict(_own(raw, path)["config"])
    else:
        layout = "CheXFound teacher" if "backbone." in naming.prefix or "teacher" in raw else "DINOv2 release"
        layout += f", blocks in {len(set(naming.chunks.values()))} chunks" if naming.chunks else ", flat blocks"
        weight = state.get("patch_embed.proj.weight")
        unknown = num_heads is None and weight is not None and len(weight) % 64 != 0
        config = infer_config(state, names, 1 if unknown else num_heads, path)
        config["num_heads"] = None if unknown else config["num_heads"]
    with torch.device("meta"):
        encoder = ViT(**{**config, "num_heads": config["num_heads"] or 1})
    spelled = {key: naming.theirs(key) for key in encoder.state_dict()} | names
    load_strictly(encoder, {key: value.to("meta") for key, value in state.items()}, spelled, path)
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})
    parameters = sum(value.numel() for value in state.values())
    return {"layout": layout, **config, "parameters": parameters, "dtypes": dtypes}


def _mostly(state: Mapping[str, Tensor], one: str, other: str) -> bool:
    return sum(one in key for key in state) > sum(other in key for key in state)


def _own(raw: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The entry in which this program's checkpoints say what their encoder is."""
    entry = raw[OWN_ENTRY]
    usable = isinstance(entry, Mapping) and isinstance(raw.get("state_dict"), Mapping)
    if not usable or not isinstance(entry.get("config"), Mapping) or not isinstance(entry.get("prefix"), str):
        raise UserError(f"{path} has a damaged entry {OWN_ENTRY!r}; give a checkpoint as the training wrote it")
    if strange := sorted(set(entry["config"]) - set(inspect.signature(ViT).parameters)):
        raise UserError(f"{path} was written by another version: it names {', '.join(strange)}; use that version")
    return dict(entry)
