"""What the head is trained to lower."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.data.targets import binary_cross_entropy, masked_mean


def asymmetric_loss(
    logits: Tensor, target: Tensor, gamma_positive: float = 0.0, gamma_negative: float = 4.0, margin: float = 0.05
) -> Tensor:
    """Asymmetric loss for rare findings (Ridnik et al. 2021, arXiv 2009.14119, eq. 4 and 7), over the known targets.

    Args:
        logits: `[B, C]`.
        target: `[B, C]`, 1 present, 0 absent, NaN unknown.
        gamma_positive: Focusing exponent of present findings.
        gamma_negative: Focusing exponent of absent findings.
        margin: Absent findings below this probability cost nothing.
    """
    truth, probability = target.nan_to_num(), logits.sigmoid()
    shifted = (probability - margin).clamp(min=0)
    positive = (1 - probability) ** gamma_positive * F.logsigmoid(logits)
    negative = shifted**gamma_negative * torch.log1p(-shifted.clamp(max=1 - 1e-6))
    return masked_mean(-(truth * positive + (1 - truth) * negative), target)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bce": binary_cross_entropy, "asymmetric": asymmetric_loss}
