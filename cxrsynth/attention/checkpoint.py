"""GLoRI heads from the CheXFound authors' files."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxrsynth.attention.glori import GLoRI
from cxrsynth.encoder.checkpoint import OWN_ENTRY
from cxrsynth.encoder.weights import load_strictly, read_weights
from cxrsynth.errors import UserError

_THEIRS = {
    "queries": "query_embed.weight",
    "weight": "duplicate_pooling",
    "bias": "duplicate_pooling_bias",
    "embed.weight": "embed_standart.weight",
    "embed.bias": "embed_standart.bias",
    **{f"cross_attention.in_proj_{kind}": f"layers.0.multihead_attn.in_proj_{kind}" for kind in ("weight", "bias")},
    **{f"cross_attention.out_proj.{kind}": f"layers.0.multihead_attn.out_proj.{kind}" for kind in ("weight", "bias")},
    **{
        f"{part}.{kind}": f"layers.0.{part}.{kind}"
        for part in ("norm1", "norm2", "norm3", "linear1", "linear2")
        for kind in ("weight", "bias")
    },
}
"""The authors' name of each weight of `GLoRI`, after what stands before all of them."""

_PREFIX = re.compile(r"^(?:module\.)?(?:classifiers_dict\.(?P<name>.+?)\.)?decoder\.")

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


def load_glori(
    path: str | Path,
    *,
    name: str | None = None,
    findings: Sequence[str] | None = None,
    num_heads: int = 8,
    blocks: int | None = None,
) -> GLoRI:
    """Load a GLoRI head in eval mode from the authors' layout (`{"model": {"classifiers_dict.<name>.decoder.…"}}`).

    Of a checkpoint of `GLoRITask` it is the best head, with its own sizes and findings.

    Args:
        path: The file (see `read_weights`); sizes and `cat_cls` are read from its weights.
        name: Which head, when the file holds several (one per learning rate tried).
        findings: What the outputs stand for, which the file does not store; None takes CXR-LT's 40 classes for a head
            of 40 outputs, else leaves the outputs without names. Kept as `head.classes`.
        num_heads: Attention heads, which the file does not store.
        blocks: How many of the encoder's blocks it uses; None takes it from the head's name (`blocks=4`), else 4.

    Raises:
        UserError: No head or several in the file, findings that are not as many as the outputs, or missing, unexpected
            or mis-shaped keys, all of them named.
    """
    raw = read_weights(path)
    if OWN_ENTRY in raw and "heads.0.queries" in raw.get("state_dict", {}):
        return _own_head(raw, path)
    name, entries = _pick_head(raw, name, path)
    stem = Counter(match.group() for key in entries if (match := _PREFIX.match(key))).most_common(1)[0][0]
    ours = {stem + theirs: key for key, theirs in _THEIRS.items()}
    # in angle brackets stands what no head has
    state = {ours.get(original, f"<{original}>"): value for original, value in entries.items()}
    names = {key: original for original, key in ours.items()} | {f"<{original}>": original for original in entries}
    if blocks is None:
        found_blocks = re.search(r"blocks=(\d+)", name)
        blocks = int(found_blocks[1]) if found_blocks else 4
    sizes = _sizes(state, names, blocks, path)
    if findings is None and sizes["findings"] == len(CXR_LT_40):
        findings = CXR_LT_40
    with torch.device("meta"):
        head = GLoRI(**sizes, num_heads=num_heads, classes=findings)
    state["weight"] = state["weight"].squeeze(-1)  # theirs is [C, dim, 1]
    load_strictly(head, state, names, path)
    head.queries.requires_grad_(False)
    return head.eval()


def _own_head(raw: Mapping[str, Any], path: str | Path) -> GLoRI:
    """The best head in a checkpoint of `GLoRITask`."""
    given, weights = raw["hyper_parameters"], raw["state_dict"]
    prefix = f"heads.{int(weights['best'])}."
    state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    sizes = {name: given[name] for name in ("blocks", "dim", "num_heads", "ffn_hidden", "cat_cls")}
    width = given["architecture"]["dim"]
    with torch.device("meta"):
        head = GLoRI(len(given["findings"]), width, **sizes, classes=given["findings"])
    load_strictly(head, state, {key: prefix + key for key in [*head.state_dict(), *state]}, path)
    head.queries.requires_grad_(False)
    return head.eval()


def _pick_head(raw: Mapping[str, Any], name: str | None, path: str | Path) -> tuple[str, dict[str, Tensor]]:
    """The head of this name and its weights, or the only one; a key that is of no head is refused."""
    entries = raw["model"] if isinstance(raw.get("model"), Mapping) else raw
    heads: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, value in entries.items():
        match = _PREFIX.match(key)
        if isinstance(value, Tensor) and match:
            heads.setdefault(match["name"] or "", {})[key] = value
        elif match or isinstance(value, Tensor):
            strange.append(key)
    if not heads:
        found = ", ".join(map(str, list(entries)[:20])) or "nothing"
        raise UserError(f"{path} holds no GLoRI head; found {found}; give the authors' file of a head")
    if name is None and len(heads) == 1:
        name = next(iter(heads))
    if name not in heads:
        found = ", ".join(map(repr, heads))
        raise UserError(f"{path} holds these GLoRI heads: {found}; give one of them as name (received {name!r})")
    # what belongs to no head is reported with the chosen one's own missing and unexpected keys
    return name, heads[name] | {key: entries[key] for key in strange}


def _sizes(state: Mapping[str, Tensor], names: Mapping[str, str], blocks: int, path: str | Path) -> dict[str, Any]:
    needed = {"queries": 2, "weight": 3, "embed.weight": 2, "linear1.weight": 2}
    if missing := [names[key] for key, dims in needed.items() if key not in state or state[key].ndim != dims]:
        strange = [names[key] for key in state if key.startswith("<")] or ["nothing"]
        raise UserError(
            f"{path} does not fit GLoRI: missing or mis-shaped {', '.join(missing)}; unexpected {', '.join(strange)}; "
            "give the file as published"
        )
    dim, width = state["embed.weight"].shape
    if blocks < 1 or width % blocks:
        raise UserError(f"{path} takes tokens of width {width}, which is no multiple of blocks={blocks}; give blocks")
    return {
        "findings": state["queries"].shape[0],
        "encoder_dim": width // blocks,
        "blocks": blocks,
        "dim": dim,
        "ffn_hidden": state["linear1.weight"].shape[0],
        "cat_cls": state["weight"].shape[1] > dim,
    }


def holds_glori(path: str | Path) -> bool:
    """Whether a file holds GLoRI heads in the authors' layout."""
    raw = read_weights(path)
    return any(_PREFIX.match(str(key)) for key in (raw["model"] if isinstance(raw.get("model"), Mapping) else raw))


def inspect_glori(path: str | Path) -> list[dict[str, Any]]:
    """What a file of GLoRI heads holds: for each its name, sizes and number of parameters.

    Raises:
        UserError: As `load_glori`.
    """
    raw = read_weights(path)
    entries = raw["model"] if isinstance(raw.get("model"), Mapping) else raw
    heads = []
    for name in sorted({match["name"] or "" for key in entries if (match := _PREFIX.match(key))}):
        head = load_glori(path, name=name)
        dtypes = {str(value.dtype).removeprefix("torch.") for value in _pick_head(raw, name, path)[1].values()}
        sizes = {key: head.config[key] for key in ("findings", "encoder_dim", "blocks", "dim", "ffn_hidden", "cat_cls")}
        parameters = sum(parameter.numel() for parameter in head.parameters())
        heads.append({"name": name, **sizes, "parameters": parameters, "dtypes": sorted(dtypes)})
    return heads
