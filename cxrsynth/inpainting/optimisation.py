"""The optimiser of a velocity field and its learning rate."""

import math
from typing import Any

import torch
from torch import nn


def adamw(
    field: nn.Module, lr: float, text_lr: float | None, weight_decay: float, warmup: int, total: float
) -> dict[str, Any]:
    """AdamW of what learns, with a line up over `warmup` steps, then a cosine to 0, as Lightning takes it.

    Args:
        field: Whose weights; those of a pretrained text encoder make a group of their own.
        lr: Peak learning rate.
        text_lr: That of the text encoder; None = `lr`.
        weight_decay: Of all.
        warmup: Steps.
        total: Steps of the training; infinite = the rate stays at its peak.
    """
    text = [p for name, p in field.named_parameters() if "embed.text.encoder.model." in name]
    chosen = {id(p) for p in text}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in field.parameters() if p.requires_grad and id(p) not in chosen]},
        {"params": [p for p in text if p.requires_grad], "lr": text_lr or lr},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr, weight_decay=weight_decay)

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, warmup))
        return rise if math.isinf(total) else rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
