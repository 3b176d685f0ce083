"""Several trainings of a classifier: intervals over patients and over trainings together.

A difference between two arms of a study has two sources of chance: which patients happen to be in the test set, and
which weights a training happens to end at. The patients are bootstrapped (`bootstrap.py`), all trainings under the same
draws. The mean over S trainings adds a deviation of s / sqrt(S), s their standard deviation; because s is estimated
from few, it is drawn from Student's t with S - 1 degrees of freedom (the sum of both is the Behrens-Fisher fiducial
distribution: Fisher 1935, doi:10.1111/j.1469-1809.1935.tb02120.x). Resampling three to five trainings instead would
make intervals too narrow by a factor of sqrt((S - 1) / S) and more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrsynth.evaluation.bootstrap import FEWEST_DEFINED, FEWEST_PATIENTS, cluster_weights
from cxrsynth.evaluation.metrics import Metric, metric_columns

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """A metric of one arm's trainings.

    Attributes:
        full: `[S, K]`, on all patients; K findings, the last column their mean.
        drawn: `[S, D, K]`, on each of the D draws of patients.
    """

    full: Array
    drawn: Array

    def __sub__(self, other: "Draws") -> "Draws":
        """Training by training: those with the same number share their initial weights and their draws of patients."""
        return Draws(self.full - other.full, self.drawn - other.drawn)


@dataclass(frozen=True)
class Spread:
    """A mean over trainings.

    Attributes:
        estimate: Mean over the trainings, all patients.
        deviation: Standard deviation over the trainings; NaN for one training.
        low: Lower limit, over patients and trainings together; NaN where there is none.
        high: Upper limit.
        p: Two-sided p value of the hypothesis that the mean is 0.
    """

    estimate: float
    deviation: float
    low: float
    high: float
    p: float


def metric_draws(tables: Sequence[pd.DataFrame], metric: Metric, draws: int = 2000, seed: int = 0) -> Draws:
    """A metric of each training on each bootstrap draw of patients.

    Args:
        tables: Predictions of the S trainings, the same images in the same order.
        metric: One of `cxrsynth.evaluation.metrics.METRICS`.
        draws: Number of draws D.
        seed: Seed of the draws; arms that are compared need the same.
    """
    statistics = [metric_columns(table, metric) for table in tables]
    everyone = np.ones((1, len(tables[0])))
    full = np.stack([statistic(everyone)[0] for statistic in statistics])
    if tables[0]["patient_id"].nunique() < FEWEST_PATIENTS:
        return Draws(full, np.full((len(tables), 1, full.shape[1]), np.nan))
    drawn = [
        np.stack([statistic(weights) for statistic in statistics])
        for weights in cluster_weights(tables[0]["patient_id"].tolist(), draws, seed)
    ]
    return Draws(full, np.concatenate(drawn, axis=1))


def spreads(values: Draws, seed: int = 0, level: float = 0.95) -> list[Spread]:
    """Mean over trainings with its interval, for each of the K columns."""
    return [spread(values.full[:, k], values.drawn[:, :, k], seed, level) for k in range(values.full.shape[1])]


def shares(values: Draws, seed: int = 0, level: float = 0.95) -> list[Spread]:
    """`spreads` of metrics that lie in [0, 1], not of their differences: the limits do too."""
    found = spreads(values, seed, level)
    return [replace(s, low=float(np.clip(s.low, 0, 1)), high=float(np.clip(s.high, 0, 1))) for s in found]


def spread(full: Array, drawn: Array, seed: int = 0, level: float = 0.95) -> Spread:
    """Mean over trainings with its interval.

    Args:
        full: `[S]`, the value of each training on all patients.
        drawn: `[S, D]`, on each draw of patients.
        seed: Seed of the deviations between trainings.
        level: Confidence level.
    """
    trainings = len(full)
    estimate = float(full.mean())
    deviation = float(full.std(ddof=1)) if trainings > 1 else float("nan")
    means = drawn.mean(axis=0)
    means = means[~np.isnan(means)]
    if np.isnan(estimate) or len(means) < FEWEST_DEFINED * drawn.shape[1] or not len(means):
        return Spread(estimate, deviation, float("nan"), float("nan"), float("nan"))
    if trainings > 1:
        noise = np.random.default_rng([seed, 1]).standard_t(trainings - 1, len(means))
        means = means + deviation / np.sqrt(trainings) * noise
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    fewer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Spread(estimate, deviation, float(low), float(high), min(1.0, 2 * (fewer + 1) / (len(means) + 1)))
