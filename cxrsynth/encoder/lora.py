"""Low-rank adaptation: a few trained weights beside the frozen ones (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cxrsynth.encoder.vit import ViT
from cxrsynth.errors import UserError

ALPHA = 16.0
"""The usual scale of the changes."""


class LowRank(nn.Module):
    """Adds `scale * up @ down` to a weight `[out, in]`; nothing at first, since `up` starts at 0."""

    def __init__(self, out_features: int, in_features: int, rank: int, alpha: float):
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight."""
        return weight + self.scale * self.up @ self.down


def add_lora(encoder: ViT, rank: int = 8, alpha: float = ALPHA) -> None:
    """Freeze an encoder and let low-rank changes of its attention's projections learn, in place.

    Args:
        encoder: Its `qkv` and `proj` weights are adapted in every block.
        rank: Rank of the changes.
        alpha: Their scale is `alpha / rank`.

    Raises:
        UserError: A rank below 1.
    """
    if rank < 1:
        raise UserError(f"lora_rank is {rank}; give a rank of at least 1")
    encoder.requires_grad_(False)
    blocks = list(encoder.blocks)
    adapt([layer for block in blocks for layer in (block.attn.qkv, block.attn.proj)], rank, alpha)  # type: ignore[union-attr, misc]


def adapt(layers: Iterable[nn.Linear], rank: int = 8, alpha: float = ALPHA) -> None:
    """Let low-rank changes of some layers' weights learn beside them, in place (see `LowRank`)."""
    for layer in list(layers):
        adapter = LowRank(layer.out_features, layer.in_features, rank, alpha).to(layer.weight.device)
        parametrize.register_parametrization(layer, "weight", adapter)


def merge_lora(state: dict[str, Tensor], alpha: float, rank: int) -> dict[str, Tensor]:
    """The plain weights of an adapted encoder: every change added to what it changes.

    Args:
        state: State dict of an encoder after `add_lora`, under any prefix.
        alpha: As given to `add_lora`.
        rank: As given to `add_lora`.

    Returns:
        A state dict of the encoder as it was before `add_lora`; entries of other modules stay as they are.
    """
    merged: dict[str, Tensor] = {}
    for key, value in state.items():
        stem, found, rest = key.partition("parametrizations.weight.")
        if not found or rest == "original":
            merged[stem + "weight" if found else key] = value
    for key, value in state.items():
        stem, found, rest = key.partition("parametrizations.weight.")
        if rest == "0.up":
            down = state[f"{stem}parametrizations.weight.0.down"]
            merged[stem + "weight"] = merged[stem + "weight"] + alpha / rank * value @ down
    return merged
