"""Loss and metrics over targets of which some are unknown (NaN)."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities import dim_zero_cat


def masked_mean(losses: Tensor, target: Tensor) -> Tensor:
    """Mean of losses `[B, C]` over the known targets, 0 when none is known."""
    known = ~target.isnan()
    return (losses * known).sum() / known.sum().clamp(min=1)


def binary_cross_entropy(logits: Tensor, target: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of logits `[B, C]` over the known targets; `pos_weight [C]` weighs present ones."""
    losses = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none", pos_weight=pos_weight)
    return masked_mean(losses, target)


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Mean focal loss of logits `[B, C]` over the known targets (Lin et al. 2017, arXiv 1708.02002, eq. 4)."""
    known = target.nan_to_num()
    losses = F.binary_cross_entropy_with_logits(logits, known, reduction="none")
    wrong = (logits.sigmoid() - known).abs()  # 1 - p_t, also for targets between 0 and 1
    return masked_mean(wrong**gamma * losses, target)


def mix(image: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412, eq. 1): each image of a batch blended with another one.

    Args:
        image: `[B, 1, H, W]`.
        target: `[B, C]`; a mixture of which one part is unknown is unknown (NaN).
        alpha: Both parameters of the Beta distribution of the share; 0 leaves the batch as it is.
    """
    if alpha == 0:
        return image, target
    share = torch.distributions.Beta(alpha, alpha).sample((len(image), 1)).to(image)
    order = torch.randperm(len(image), device=image.device)
    mixed = share[..., None, None] * image + (1 - share[..., None, None]) * image[order]
    return mixed, share * target + (1 - share) * target[order]


class FindingMetrics(Metric):
    """AUROC and AUPRC of each finding over an epoch.

    Unknown (NaN) targets are left out finding by finding; a finding without a present or without an absent image has
    no value (NaN) and does not enter the mean.

    Args:
        num_findings: Number of findings C.
    """

    full_state_update = False

    def __init__(self, num_findings: int):
        super().__init__()
        self.num_findings = num_findings
        self.logits: list[Tensor]
        self.targets: list[Tensor]
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch of logits `[B, C]` and targets `[B, C]` (1 present, 0 absent, NaN unknown)."""
        self.logits.append(logits.detach().float())
        self.targets.append(target.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """`{"auroc": [C], "auprc": [C]}`, NaN where undefined."""
        probabilities, targets = dim_zero_cat(self.logits).sigmoid(), dim_zero_cat(self.targets)
        auroc, auprc = torch.full((2, self.num_findings), torch.nan, device=targets.device)
        for index in range(self.num_findings):
            known = ~targets[:, index].isnan()
            truth = targets[known, index].long()
            if 0 < truth.sum() < truth.numel():
                auroc[index] = binary_auroc(probabilities[known, index], truth)
                auprc[index] = binary_average_precision(probabilities[known, index], truth)
        return {"auroc": auroc, "auprc": auprc}
