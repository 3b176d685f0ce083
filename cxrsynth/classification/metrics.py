"""AUROC and AUPRC per finding that know about unknown targets and absent classes."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities import dim_zero_cat


class FindingMetrics(Metric):
    """AUROC and AUPRC of each finding over an epoch.

    Unknown (NaN) targets are left out finding by finding; a finding without a present or without an absent image has no
    value (NaN) and does not enter the mean.

    Args:
        num_findings: Number of findings C.
    """

    full_state_update = False

    def __init__(self, num_findings: int) -> None:
        super().__init__()
        self.num_findings = num_findings
        self.probabilities: list[Tensor]
        self.targets: list[Tensor]
        self.add_state("probabilities", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            probabilities: `[B, C]` in [0, 1].
            target: `[B, C]`, 1 present, 0 absent, NaN unknown.
        """
        self.probabilities.append(probabilities.detach().float())
        self.targets.append(target.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """`{"auroc": [C], "auprc": [C]}`, NaN where undefined."""
        probabilities, targets = dim_zero_cat(self.probabilities), dim_zero_cat(self.targets)
        auroc, auprc = torch.full((2, self.num_findings), torch.nan, device=targets.device)
        for index in range(self.num_findings):
            known = ~targets[:, index].isnan()
            truth = targets[known, index].long()
            if 0 < truth.sum() < truth.numel():
                auroc[index] = binary_auroc(probabilities[known, index], truth)
                auprc[index] = binary_average_precision(probabilities[known, index], truth)
        return {"auroc": auroc, "auprc": auprc}
