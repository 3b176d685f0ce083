"""What a probability is used for: thresholds and temperatures, chosen on validation patients, applied to test ones."""

from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.metrics import precision_recall_curve

from cxrsynth.evaluation.metrics import Metric, finding_names

Array = NDArray[np.float64]

LEAST = 1e-6  # probabilities are kept this far from 0 and 1, so that their logits are finite


def known(table: pd.DataFrame, finding: str) -> tuple[Array, Array]:
    """Probability and truth of a finding where both are known."""
    probability, truth = (table[f"{finding}_{kind}"].to_numpy(np.float64) for kind in ("prob", "true"))
    keep = ~np.isnan(probability) & ~np.isnan(truth)
    return probability[keep], truth[keep]


def f1_thresholds(validation: pd.DataFrame) -> dict[str, float]:
    """The threshold of each finding with the highest F1 score; 0.5 where validation has no image with the finding."""
    thresholds = {}
    for finding in finding_names(validation):
        probability, truth = known(validation, finding)
        if not truth.any():
            thresholds[finding] = 0.5
            continue
        precision, recall, cuts = precision_recall_curve(truth, probability)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        thresholds[finding] = float(cuts[np.argmax(f1[:-1])])
    return thresholds


def temperature(validation: pd.DataFrame) -> float:
    """The temperature that all logits are divided by for the least validation loss (Guo et al. 2017, section 4.2)."""
    pairs = [known(validation, finding) for finding in finding_names(validation)]
    logit = _logit(np.concatenate([probability for probability, _ in pairs]))
    truth = np.concatenate([truth for _, truth in pairs])
    if not len(truth):
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logit / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - truth * scaled))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def rescaled(table: pd.DataFrame, by: float) -> pd.DataFrame:
    """The table with every logit divided by a temperature."""
    columns = [f"{finding}_prob" for finding in finding_names(table)]
    values = 1 / (1 + np.exp(-_logit(table[columns].to_numpy(np.float64)) / by))
    return table.assign(**dict(zip(columns, values.T, strict=True)))


def decided(table: pd.DataFrame, thresholds: dict[str, float]) -> pd.DataFrame:
    """The table with probabilities replaced by decisions: 1 at or above the threshold, else 0."""
    chosen = {}
    for finding, cut in thresholds.items():
        probability = table[f"{finding}_prob"].to_numpy(np.float64)
        chosen[f"{finding}_prob"] = np.where(np.isnan(probability), np.nan, probability >= cut)
    return table.assign(**chosen)


def f1(decision: Array, truth: Array, weights: Array) -> Array:
    """F1 score of decisions."""
    hits = weights @ (decision * truth)
    total = weights @ (decision + truth)
    return np.divide(2 * hits, total, out=np.full(len(weights), np.nan), where=total > 0)


def _rate(decision: Array, truth: Array, weights: Array, among: int, wrong: int) -> Array:
    """Weighted share of the images of truth `among` whose decision is `wrong`."""
    total = weights @ (truth == among).astype(np.float64)
    part = weights @ ((truth == among) & (decision == wrong)).astype(np.float64)
    return np.divide(part, total, out=np.full(len(weights), np.nan), where=total > 0)


DECISIONS: dict[str, Metric] = {
    "f1": f1,
    "fnr": partial(_rate, among=1, wrong=0),
    "fpr": partial(_rate, among=0, wrong=1),
}


def _logit(probability: Array) -> Array:
    clipped = np.clip(probability, LEAST, 1 - LEAST)
    return np.log(clipped) - np.log1p(-clipped)
