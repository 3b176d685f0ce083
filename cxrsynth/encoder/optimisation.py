"""Parameter groups of DINOv2's optimiser, and gradient clipping per module."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from cxrsynth.encoder.vit import ViT


def parameter_groups(
    backbone: ViT, heads: Iterable[nn.Module], layer_decay: float, patch_lr: float
) -> list[dict[str, Any]]:
    """Groups for AdamW, each with `lr_factor`, `decays` and `last_layer` beside its parameters.

    Args:
        backbone: The student's encoder.
        heads: Its projection heads.
        layer_decay: Factor of the learning rate from each block to the one before it; 1 is none.
        patch_lr: Factor of the learning rate of the patch embedding.

    Returns:
        Groups of parameters that are treated alike. Vectors (biases, norms, LayerScale) get no weight decay.
    """
    depth = len(backbone.blocks)
    groups: dict[tuple[float, bool, bool], list[Tensor]] = {}
    for name, parameter in backbone.named_parameters():
        block = re.match(r"blocks\.(\d+)\.", name)
        below = depth - int(block[1]) if block else (0 if name.startswith("norm.") else depth + 1)
        factor = layer_decay**below * (patch_lr if name.startswith("patch_embed.") else 1.0)
        groups.setdefault((factor, _decays(name, parameter), False), []).append(parameter)
    for head in heads:
        for name, parameter in head.named_parameters():
            if parameter.requires_grad:
                key = (1.0, _decays(name, parameter), name.startswith("last_layer."))
                groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr_factor": factor, "decays": decays, "last_layer": last}
        for (factor, decays, last), parameters in groups.items()
    ]


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and not name.endswith(("bias", "gamma"))


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float, freeze_last_layer: bool) -> None:
    """Put this step's learning rate and weight decay into groups that `parameter_groups` made."""
    for group in optimizer.param_groups:
        frozen = group["last_layer"] and freeze_last_layer
        group["lr"] = 0.0 if frozen else lr * group["lr_factor"]
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


@torch.no_grad()
def update_average(average: nn.Module, current: nn.Module, momentum: float) -> None:
    """Move every parameter of `average` towards `current`: `a <- momentum * a + (1 - momentum) * c`."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - momentum)
