"""Adapt a published DiffusionModelUNet of MONAI: its weights are the start of a training on one's own archive.

RoentGen's method (Chambon et al. 2022, arXiv 2211.12737) with this project's region and condition.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cxrsynth.autoencoder.published import attention_layers, groups, load_published, plain_state
from cxrsynth.encoder.lora import adapt
from cxrsynth.encoder.weights import fingerprints, read_weights
from cxrsynth.errors import UserError
from cxrsynth.inpainting.parametrisation import published
from cxrsynth.inpainting.unet import VelocityUNet

TUNINGS = ("full", "lora")
ADAPTED = ("to_q", "to_k", "to_v", "qkv", "out_proj")
FIRST = "conv_in.conv.weight"
SCHEDULE = tuple(inspect.signature(published).parameters)


def read_unet(asked: Mapping[str, Any] | None, channels: int) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Sizes and weights of a published network.

    Args:
        asked: `path`; `head_channels` (channels of an attention head, one number or one by level) and, where it is not
            32, `norm_groups`, neither of which a file says; and the arguments of `parametrisation.published`. None = no
            published network.
        channels: Of the state that it shall paint.

    Returns:
        What a checkpoint keeps (`asked` with `sizes` and `sha256`), and the state dict, its first layer widened for the
        region and the coordinates by weights of 0. Of what a checkpoint keeps: itself, and nothing.

    Raises:
        UserError: Names that are not understood, no such network in the file, or one of other channels.
    """
    if asked is None:
        return None, {}
    known = {"path", "head_channels", "norm_groups", "sizes", "sha256", *SCHEDULE}
    if not set(asked) <= known or not {"path", "prediction"} <= set(asked):
        raise UserError(
            f"pretrained names {', '.join(asked) or 'nothing'}; give path, prediction and head_channels, for a "
            "diffusion model schedule, beta_start and beta_end, and perhaps norm_groups and timesteps"
        )
    published(**{name: asked[name] for name in SCHEDULE if name in asked})
    if "sizes" in asked:
        return dict(asked), {}
    path = str(asked["path"])
    state = plain_state(read_weights(path), path)
    sizes = unet_sizes(state, path, asked.get("head_channels"), asked.get("norm_groups"))
    first, last = state[FIRST], state["out.2.conv.weight"]
    if not first.shape[1] == last.shape[0] == channels:
        raise UserError(
            f"{path} takes {first.shape[1]} channels and gives {last.shape[0]}, but the state here has {channels}; "
            "give the latent (autoencoder) that it was trained with"
        )
    state[FIRST] = torch.cat([first, first.new_zeros(len(first), 3, *first.shape[2:])], 1)
    return {**asked, "sizes": sizes, "sha256": fingerprints(path)}, state


def unet_sizes(
    state: Mapping[str, Tensor], path: str, head_channels: Any = None, norm_groups: int | None = None
) -> dict[str, Any]:
    """The `VelocityUNet` arguments that a published network was made with, from the shapes of its weights.

    Raises:
        UserError: Not such a network, one of volumes, or a number that no file says and that is not given.
    """
    levels = sorted({int(m[1]) for key in state if (m := re.match(r"down_blocks\.(\d+)\.", key))})
    widths = [state.get(f"down_blocks.{level}.resnets.0.conv1.conv.weight") for level in levels]
    if FIRST not in state or "out.2.conv.weight" not in state or not levels or any(w is None for w in widths):
        raise UserError(
            f"{path} holds no DiffusionModelUNet; found {', '.join(list(state)[:5])}; give MONAI's state dict"
        )
    if state[FIRST].ndim != 4:
        raise UserError(f"{path} paints {state[FIRST].ndim - 2} dimensions; give a network of 2")
    channels = [width.shape[0] for width in widths if width is not None]
    attention = [any(key.startswith(f"down_blocks.{level}.attentions.") for key in state) for level in levels]
    if not isinstance(head_channels, int | list | tuple):
        raise UserError(f"head_channels is {head_channels!r}; no file says it, so give it as the card of {path} does")
    context = state.get("middle_block.attention.transformer_blocks.0.attn2.to_k.weight")
    layers = {m[1] for key in state if (m := re.match(r"middle_block\.attention\.transformer_blocks\.(\d+)\.", key))}
    fc = attention_layers(state)
    return {
        "channels": channels,
        "attention": attention,
        "num_res_blocks": [
            len({m[1] for key in state if (m := re.match(rf"down_blocks\.{level}\.resnets\.(\d+)\.", key))})
            for level in levels
        ],
        "head_channels": head_channels if isinstance(head_channels, int) else list(head_channels),
        "norm_groups": groups(channels, norm_groups, path),
        "token_width": None if context is None else context.shape[1],
        "options": {
            "resblock_updown": any(".downsampler.norm1." in key for key in state),
            "transformer_num_layers": max(1, len(layers)),
            "include_fc": fc["include_fc"],
            "use_combined_linear": fc["combined_linear"],
        },
    }


def start_from_published(field: VelocityUNet, state: Mapping[str, Tensor], path: str) -> None:
    """Fill a velocity field with a published network, strictly; the condition's vector starts at 0, as if not there."""
    load_published(field.unet, state, path)
    field.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    last = field.embed.to_vector[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def tune(field: VelocityUNet, tuning: str) -> None:
    """Choose what learns: everything, or low-rank changes of attention, the outer layers and the condition.

    Raises:
        UserError: An unknown tuning.
    """
    if tuning not in TUNINGS:
        raise UserError(f"tuning is {tuning!r}; choose one of {', '.join(TUNINGS)}")
    if tuning == "lora":
        field.unet.requires_grad_(False)
        modules = field.unet.named_modules()
        adapt(m for name, m in modules if isinstance(m, nn.Linear) and name.split(".")[-1] in ADAPTED)
        for layer in (field.unet.conv_in, field.unet.out):
            layer.requires_grad_(True)
