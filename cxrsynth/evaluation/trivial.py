"""What one scores without looking: the yardstick beside which accuracy and losses are shown."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cxrsynth.evaluation.metrics import finding_names
from cxrsynth.evaluation.operating import known


def without_looking(prevalence: Mapping[str, float]) -> dict[str, float]:
    """Scores, mean of the findings, of two rules that see no image.

    Args:
        prevalence: Share of images with each finding.

    Returns:
        `all_absent_accuracy` (every finding called absent), `prior_loss` and `prior_brier` (every probability equal to
        the prevalence; its accuracy at 0.5 is that of "all absent" when every prevalence is below 0.5).
    """
    p = np.array(list(prevalence.values()), dtype=np.float64)
    inside = np.clip(p, 1e-12, 1 - 1e-12)
    entropy = -(inside * np.log(inside) + (1 - inside) * np.log(1 - inside))
    return {
        "all_absent_accuracy": float(np.mean(1 - p)),
        "prior_loss": float(np.mean(entropy)),
        "prior_brier": float(np.mean(p * (1 - p))),
    }


def accuracy_beside_trivial(table: pd.DataFrame) -> dict[str, Any]:
    """Accuracy at 0.5 and loss of a classifier, mean of the findings, beside `without_looking` on the same images."""
    accuracies, losses, prevalence = [], [], {}
    for finding in finding_names(table):
        probability, truth = known(table, finding)
        if not len(truth):
            continue
        inside = np.clip(probability, 1e-6, 1 - 1e-6)
        accuracies.append(np.mean((probability >= 0.5) == truth))
        losses.append(-np.mean(truth * np.log(inside) + (1 - truth) * np.log(1 - inside)))
        prevalence[finding] = float(truth.mean())
    return {
        "accuracy": float(np.mean(accuracies)) if accuracies else float("nan"),
        "loss": float(np.mean(losses)) if losses else float("nan"),
        **without_looking(prevalence),
    }
