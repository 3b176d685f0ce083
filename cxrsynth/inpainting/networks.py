"""Builds the velocity field and the text encoder that plain settings ask for."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cxrsynth.errors import UserError
from cxrsynth.inpainting.dit import VelocityDiT
from cxrsynth.inpainting.parametrisation import CLOCK, Preconditioned, published
from cxrsynth.inpainting.published import SCHEDULE, start_from_published, tune
from cxrsynth.inpainting.space import Pixels, Space
from cxrsynth.inpainting.text import TextEncoder, Vocabulary
from cxrsynth.inpainting.unet import VelocityUNet

NETWORKS = ("unet", "dit")
OPTIONAL_FIELDS = ("text", "view", "sex", "age")  # findings are always used


def build_field(
    network: str,
    findings: int,
    *,
    size: int,
    channels: Sequence[int],
    attention: Sequence[bool],
    num_res_blocks: int,
    head_channels: int,
    norm_groups: int,
    dim: int,
    depth: int,
    num_heads: int,
    patch: int,
    bf16: bool,
    fields: Sequence[str],
    views: int,
    text: nn.Module | None,
    recompute: bool,
    space: Space | None = None,
    pretrained: Mapping[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    tuning: str = "full",
    clock: float | None = None,
) -> VelocityUNet | VelocityDiT:
    """A velocity field; see `VelocityUNet` and `VelocityDiT` for most of the arguments.

    It lives in `space` (None = pixels); `clock` is that of `Preconditioned`. With `pretrained`, what `read_unet` keeps
    of a published network, it has that one's sizes, begins with `weights`, unless there are none, and learns as `tune`
    says.

    Raises:
        UserError: An unknown network or tuning, a published network in other than a UNet's place, or a size that the
            network cannot paint.
    """
    space = space or Pixels()
    if network not in NETWORKS:
        raise UserError(f"network is {network!r}; choose one of {', '.join(NETWORKS)}")
    clock = CLOCK if clock is None else clock
    if clock <= 0:
        raise UserError(f"clock is {clock}; give a number above 0, such as 20 or 1000")
    told: dict[str, Any] = {
        **{"bf16": bf16, "fields": fields, "views": views, "text": text, "recompute": recompute},
        "state_channels": space.channels,
    }
    if (pretrained is not None or tuning != "full") and (network != "unet" or pretrained is None or patch != 1):
        raise UserError("pretrained and tuning belong together, to network unet with patch 1; leave them out otherwise")
    field: VelocityUNet | VelocityDiT
    if pretrained is not None:
        meaning = published(**{name: pretrained[name] for name in SCHEDULE if name in pretrained})
        field = VelocityUNet(findings, **pretrained["sizes"], **told, parametrisation=meaning)
        if weights:
            start_from_published(field, weights, pretrained["path"])
        tune(field, tuning)
    elif network == "unet":
        told["parametrisation"] = Preconditioned(space.spread, clock)
        field = VelocityUNet(
            findings, channels, attention, num_res_blocks, head_channels, norm_groups, patch=patch, **told
        )
    else:
        if dim % 4 or dim % num_heads:
            raise UserError(f"dim is {dim} with num_heads {num_heads}; give a multiple of both 4 and num_heads")
        field = VelocityDiT(findings, dim, depth, num_heads, patch, **told, spread=space.spread, clock=clock)
    multiple = field.multiple * space.reduction
    if size % multiple:
        raise UserError(f"size is {size}; this network paints multiples of {multiple} pixels")
    return field


def build_text(
    fields: Collection[str],
    folder: str | None,
    *,
    vocabulary: int,
    width: int,
    depth: int,
    limit: int,
    tuning: str,
) -> nn.Module | None:
    """The text encoder: None without text, a pretrained one if a folder is given, else our own with fresh weights.

    Raises:
        UserError: An unknown field, a folder without text among the fields, or a folder that cannot be read.
    """
    strange = sorted(set(fields) - set(OPTIONAL_FIELDS))
    if strange:
        raise UserError(f"fields names {', '.join(strange)}; choose from {', '.join(OPTIONAL_FIELDS)}")
    if "text" not in fields:
        if folder is not None:
            raise UserError("text_encoder is given, but fields does not name text; add it, or leave the encoder out")
        return None
    if folder is None:
        return TextEncoder(vocabulary, width, depth, max(1, width // 16), limit)
    from cxrsynth.inpainting.huggingface import PretrainedText  # only where it is wanted: slow to import

    return PretrainedText(folder, tuning)


def pretrained_vocabulary(folder: str, limit: int) -> Vocabulary:
    """See `cxrsynth.inpainting.huggingface.read_vocabulary`."""
    from cxrsynth.inpainting.huggingface import read_vocabulary

    return read_vocabulary(folder, limit)
