"""Metrics of one finding that take image weights, so that all bootstrap draws are computed at once.

Each takes `probability [n]`, `truth [n]` (1 present, 0 absent) and `weights [d, n]`, and returns `[d]`, NaN where the
weighted images lack what the metric needs. With weights of one they equal scikit-learn's.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
Metric = Callable[[Array, Array, Array], Array]

ECE_BINS = 10


def auroc(probability: Array, truth: Array, weights: Array) -> Array:
    """Area under the ROC curve, ties counting half."""
    present, absent = _cumulate(probability, truth, weights)
    area = _trapezoid(present, absent)
    return _divide(area, present[:, -1] * absent[:, -1])


def average_precision(probability: Array, truth: Array, weights: Array) -> Array:
    """Area under the precision-recall curve as the sum of precision times the step in recall."""
    present, absent = _cumulate(probability, truth, weights)
    precision = np.nan_to_num(_divide(present, present + absent))
    gained = np.diff(present, axis=1, prepend=0)
    return _divide((gained * precision).sum(axis=1), present[:, -1])


def sensitivity_at_specificity(probability: Array, truth: Array, weights: Array, specificity: float) -> Array:
    """Highest sensitivity over the thresholds whose specificity is at least the given one."""
    present, absent = _cumulate(probability, truth, weights)
    allowed = absent <= (1 - specificity) * absent[:, -1:] + 1e-9
    best = np.where(allowed, present, 0).max(axis=1)
    return np.where(absent[:, -1] > 0, _divide(best, present[:, -1]), np.nan)


def brier(probability: Array, truth: Array, weights: Array) -> Array:
    """Mean squared distance of probability and truth (Brier 1950)."""
    return _divide(weights @ (probability - truth) ** 2, weights.sum(axis=1))


def calibration_error(probability: Array, truth: Array, weights: Array) -> Array:
    """Expected calibration error over ten bins of equal width (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
    bins = np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)
    excess = weights * (probability - truth)
    error = np.zeros(len(weights))
    for index in np.unique(bins):
        error += np.abs(excess[:, bins == index].sum(axis=1))
    return _divide(error, weights.sum(axis=1))


METRICS: dict[str, Metric] = {
    "auroc": auroc,
    "auprc": average_precision,
    "sensitivity_at_specificity_0.9": partial(sensitivity_at_specificity, specificity=0.9),
    "brier": brier,
    "ece": calibration_error,
}


def finding_names(predictions: pd.DataFrame) -> list[str]:
    """Findings of a prediction table: every name with both a `_prob` and a `_true` column."""
    columns = [str(column) for column in predictions]
    names = [column.removesuffix("_prob") for column in columns if column.endswith("_prob")]
    return [name for name in names if f"{name}_true" in columns]


def metric_columns(predictions: pd.DataFrame, metric: Metric) -> Callable[[Array], Array]:
    """A statistic for `bootstrap`: the metric of every finding and, last, their mean over the findings that have one.

    Args:
        predictions: Table of n images (see `cxrsynth.evaluation.predictions`); unknown truths are NaN.
        metric: One of `METRICS`.
    """
    columns = []
    for name in finding_names(predictions):
        truth = predictions[f"{name}_true"].to_numpy(np.float64)
        probability = predictions[f"{name}_prob"].to_numpy(np.float64)
        columns.append((probability, truth, ~np.isnan(truth) & ~np.isnan(probability)))

    def statistic(weights: Array) -> Array:
        values = [metric(probability[known], truth[known], weights[:, known]) for probability, truth, known in columns]
        table = np.stack(values, axis=1)
        defined = ~np.isnan(table)
        mean = _divide(np.where(defined, table, 0).sum(axis=1), defined.sum(axis=1).astype(np.float64))
        return np.concatenate([table, mean[:, None]], axis=1)

    return statistic


def _cumulate(probability: Array, truth: Array, weights: Array) -> tuple[Array, Array]:
    """Weight of the present and of the absent images at or above each distinct probability, highest first: `[d, t]`."""
    if not len(probability):
        return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
    order = np.argsort(-probability, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)
    ordered = weights[:, order]
    present = np.cumsum(ordered * truth[order], axis=1)[:, last_of_tie]
    return present, np.cumsum(ordered, axis=1)[:, last_of_tie] - present


def _trapezoid(height: Array, position: Array) -> Array:
    steps = np.diff(position, axis=1, prepend=0)
    before = np.concatenate([np.zeros_like(height[:, :1]), height[:, :-1]], axis=1)
    return (steps * (height + before) / 2).sum(axis=1)


def _divide(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
