"""GLoRI heads from the CheXFound authors' files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxrsynth.attention.glori import GLoRI
from cxrsynth.encoder.weights import load_strictly, read_weights
from cxrsynth.errors import UserError

_OURS = {
    "query_embed.weight": "queries",
    "duplicate_pooling": "weight",
    "duplicate_pooling_bias": "bias",
    "embed_standart.weight": "embed.weight",
    "embed_standart.bias": "embed.bias",
}
_PREFIX = re.compile(r"^(?:module\.)?classifiers_dict\.(?P<name>.+?)\.(?=decoder\.)")

# fmt: off
CXR_LT_40 = (
    "Adenopathy", "Atelectasis", "Azygos Lobe", "Calcification of the Aorta", "Cardiomegaly", "Clavicle Fracture",
    "Consolidation", "Edema", "Emphysema", "Enlarged Cardiomediastinum", "Fibrosis", "Fissure", "Fracture",
    "Granuloma", "Hernia", "Hydropneumothorax", "Infarction", "Infiltration", "Kyphosis", "Lobar Atelectasis",
    "Lung Lesion", "Lung Opacity", "Mass", "Nodule", "Normal", "Pleural Effusion", "Pleural Other",
    "Pleural Thickening", "Pneumomediastinum", "Pneumonia", "Pneumoperitoneum", "Pneumothorax", "Pulmonary Embolism",
    "Pulmonary Hypertension", "Rib Fracture", "Round(ed) Atelectasis", "Subcutaneous Emphysema", "Support Devices",
    "Tortuous Aorta", "Tuberculosis",
)
# fmt: on
"""The classes of CXR-LT 2024, task 1, in the order of its files."""


def load_glori(path: str | Path, *, name: str | None = None, num_heads: int = 8, blocks: int | None = None) -> GLoRI:
    """Load a GLoRI head in eval mode from the authors' layout (`{"model": {"classifiers_dict.<name>.decoder.…"}}`).

    Args:
        path: The file; sizes and `cat_cls` are read from its weights.
        name: Which head, when the file holds several (one per learning rate tried).
        num_heads: Attention heads, which the file does not store.
        blocks: How many of the encoder's blocks it uses; None takes it from the head's name (`blocks=4`), else 4.

    Raises:
        UserError: No head or several in the file, or missing, unexpected or mis-shaped keys, all of them named.
    """
    raw = read_weights(path)
    entries = raw["model"] if isinstance(raw.get("model"), Mapping) else raw
    heads: dict[str, dict[str, Tensor]] = {}
    for key, value in entries.items():
        match = _PREFIX.match(key)
        if match or key.startswith("decoder."):
            heads.setdefault(match["name"] if match else "", {})[key] = value
        elif isinstance(value, Tensor):
            raise UserError(f"{path} does not fit GLoRI: unexpected {key}; give the file as published")
    if name is None and len(heads) == 1:
        name = next(iter(heads))
    if name not in heads:
        found = ", ".join(map(repr, heads)) or "none"
        raise UserError(f"{path} holds these GLoRI heads: {found}; give one of them as name (received {name!r})")
    state, names = {}, {}
    for original, value in heads[name].items():
        key = _PREFIX.sub("", original).removeprefix("decoder.").removeprefix("layers.0.")
        key = _OURS.get(key, key.replace("multihead_attn.", "cross_attention."))
        state[key] = value.squeeze(-1) if key == "weight" and value.ndim == 3 else value
        names[key] = original
    if blocks is None:
        found_blocks = re.search(r"blocks=(\d+)", name)
        blocks = int(found_blocks[1]) if found_blocks else 4
    with torch.device("meta"):
        head = GLoRI(**_sizes(state, blocks, path), num_heads=num_heads)
    load_strictly(head, state, names, path)
    head.queries.requires_grad_(False)
    return head.eval()


def _sizes(state: Mapping[str, Tensor], blocks: int, path: str | Path) -> dict[str, Any]:
    needed = {ours: theirs for theirs, ours in _OURS.items() if ours in {"queries", "weight", "embed.weight"}}
    needed["linear1.weight"] = "linear1.weight"
    if missing := [theirs for ours, theirs in needed.items() if ours not in state or state[ours].ndim != 2]:
        raise UserError(
            f"{path} does not fit GLoRI: missing or mis-shaped {', '.join(missing)} among {', '.join(state)}; "
            "give the file as published"
        )
    dim, width = state["embed.weight"].shape
    if width % blocks:
        raise UserError(f"{path} takes tokens of width {width}, which is no multiple of blocks={blocks}; give blocks")
    return {
        "findings": state["queries"].shape[0],
        "encoder_dim": width // blocks,
        "blocks": blocks,
        "dim": dim,
        "ffn_hidden": state["linear1.weight"].shape[0],
        "cat_cls": state["weight"].shape[1] > dim,
    }
