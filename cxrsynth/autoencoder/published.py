"""Names and shapes of MONAI's published networks, those of the older package `generative` among them.

Between the two the same tensors changed their names: `to_q` became `attn.to_q` in attention blocks, `to_out.0` became
`out_proj` in transformer blocks, `conv` became `postconv` in layers that enlarge. The older attention blocks also hold
a `proj_attn` that their forward never applies (GenerativeModels issue 503), so it was never trained: it is left out,
and such blocks get no last layer. MONAI's own `load_old_state_dict` applies it, and ignores keys it does not know.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cxrsynth.encoder.weights import load_strictly
from cxrsynth.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "unet_state_dict", "autoencoder_state_dict", "model")
OLDER = ((".attn.to_", ".to_"), (".out_proj.", ".to_out.0."), (".postconv.", ".conv."))
NEVER_APPLIED = ".proj_attn."


def plain_state(raw: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, without wrappers, without `module.` and without what was never applied.

    Raises:
        UserError: There is none.
    """
    for wrapper in WRAPPERS:
        if isinstance(raw.get(wrapper), Mapping):
            raw = raw[wrapper]
            break
    state = {key.removeprefix("module."): value for key, value in raw.items() if isinstance(value, Tensor)}
    if not state or len(state) < len(raw):
        strange = [key for key, value in raw.items() if not isinstance(value, Tensor)] or ["nothing"]
        raise UserError(f"{path} is no state dict: it holds {', '.join(strange[:10])}; give names and tensors alone")
    return {key: value for key, value in state.items() if NEVER_APPLIED not in key}


def name_in_file(key: str, present: Collection[str]) -> str:
    """What a file calls the tensor that MONAI now calls `key`; the present name where the file has neither."""
    older = next((key.replace(new, old) for new, old in OLDER if new in key), key)
    return older if key not in present and older in present else key


def load_published(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Fill a network of MONAI from a state dict of either package, strictly (see `load_strictly`)."""
    names = {key: name_in_file(key, state) for key in module.state_dict()}
    found = {key: state[name] for key, name in names.items() if name in state}
    rest = {name: state[name] for name in state if name not in set(names.values())}
    load_strictly(module, found | rest, names | {name: name for name in rest}, path)


def autoencoder_config(state: Mapping[str, Tensor], path: str | Path, norm_groups: int | None = None) -> dict[str, Any]:
    """The `Autoencoder` arguments that a published AutoencoderKL was made with, from the shapes of its weights.

    Args:
        state: Of the file.
        path: For messages.
        norm_groups: No file says it; None takes 32, MONAI's default.

    Raises:
        UserError: Not such a network, one of volumes or of colour images, or one whose widths 32 does not divide.
    """
    encoder, decoder = _levels(state, "encoder"), _levels(state, "decoder")
    first, last = state.get("encoder.blocks.0.conv.weight"), state.get("quant_conv_mu.conv.weight")
    if first is None or last is None or not encoder or len(encoder) != len(decoder):
        raise UserError(
            f"{path} holds no AutoencoderKL; found {', '.join(list(state)[:5])}; give MONAI's state dict, as published"
        )
    if first.ndim != 4 or first.shape[1] != 1:
        raise UserError(
            f"{path} codes {first.ndim - 2} dimensions and {first.shape[1]} channels; give a network of 2 and 1"
        )
    own = encoder[-1].endswith("RAR")  # blocks that attend end with A, others hold none
    blocks = [level.count("R") for level in encoder]
    blocks[-1] -= 2 * own
    channels = _widths(state)
    return {
        "channels": channels,
        "latent_channels": last.shape[0],
        "num_res_blocks": blocks,
        # of the last level, what the block of the lowest resolution does not explain
        "attention": ["A" in level for level in [*encoder[:-1], encoder[-1].removesuffix("RAR" if own else "")]],
        "encoder_attention": own,
        "decoder_attention": decoder[0].count("R") > blocks[-1],
        "norm_groups": groups(channels, norm_groups, path),
        "transposed": any(".deconv." in key for key in state),
        **attention_layers(state),
    }


def attention_layers(state: Mapping[str, Tensor]) -> dict[str, bool]:
    """How a network's attention blocks are made."""
    attends = any(re.search(r"\.(to_q|qkv)\.", key) for key in state)
    projects = any(re.search(r"\.(out_proj|to_out\.0)\.", key) for key in state)
    return {"include_fc": projects or not attends, "combined_linear": any(".qkv." in key for key in state)}


def groups(channels: Sequence[int], given: int | None, path: str | Path) -> int:
    """The groups of the group norms, which no file stores."""
    if given is None and any(width % 32 for width in channels):
        raise UserError(f"{path} has widths {list(channels)}, which MONAI's 32 groups do not divide; give norm_groups")
    return given or 32


def _levels(state: Mapping[str, Tensor], half: str) -> list[str]:
    """The blocks of an encoder or decoder, level by level: R residual, A attention."""
    kinds: dict[int, str] = {}
    for key in state:
        if match := re.match(rf"{half}\.blocks\.(\d+)\.(.+)", key):
            index, rest = int(match[1]), match[2]
            if rest.startswith("norm1."):
                kinds[index] = "R"
            elif rest.startswith("norm."):
                kinds[index] = "A"
            elif rest.startswith(("conv.conv.", "postconv.", "deconv.")):
                kinds[index] = " "
    return "".join(kind for _, kind in sorted(kinds.items())).split(" ")


def _widths(state: Mapping[str, Tensor]) -> list[int]:
    """Width of each level of the encoder."""
    widths: list[int] = []
    level = 0
    indexes = sorted({int(m[1]) for key in state if (m := re.match(r"encoder\.blocks\.(\d+)\.", key))})
    for index in indexes:
        residual = state.get(f"encoder.blocks.{index}.conv1.conv.weight")
        if residual is not None and len(widths) == level:
            widths.append(residual.shape[0])
        level += f"encoder.blocks.{index}.conv.conv.weight" in state
    return widths
