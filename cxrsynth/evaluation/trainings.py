"""Several trainings of a classifier: intervals over patients and over trainings together.

A difference between two arms of a study has two sources of chance: which patients happen to be in the test set, and
which weights a training happens to end at. The patients are bootstrapped (`bootstrap.py`), all trainings under the same
draws. The mean over S trainings adds a deviation, and with two or three trainings an arm cannot know its own. But all
arms of a study are trained alike, so their spread is estimated together (`between_trainings`), with the sum of their
S - 1 degrees of freedom, and the deviation is drawn from Student's t with these (the sum of both is the Behrens-Fisher
fiducial distribution: Fisher 1935, doi:10.1111/j.1469-1809.1935.tb02120.x).

Trainings differ on the same patients for two reasons: one is better than the other, or they err on other images. The
second is in the bootstrap over patients as well, so it counts twice and intervals are a little too wide. Taking it out
of the bootstrap left 91 % of intervals with the truth in them (three trainings), where 95 % were promised.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bartlett

from cxrsynth.evaluation.bootstrap import FEWEST_DEFINED, FEWEST_PATIENTS, cluster_weights
from cxrsynth.evaluation.metrics import Metric, metric_columns

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """A metric of one arm's trainings.

    Attributes:
        full: `[S, K]`, on all patients; K findings, the last column their mean.
        drawn: `[S, D, K]`, on each of the D draws of patients.
        arms: How many arms' chance is in it: 2 for a difference.
    """

    full: Array
    drawn: Array
    arms: int = 1

    def __sub__(self, other: "Draws") -> "Draws":
        """Training by training: those with the same number share their initial weights and their draws of patients."""
        return Draws(self.full - other.full, self.drawn - other.drawn, self.arms + other.arms)


@dataclass(frozen=True)
class Between:
    """How much trainings of one arm differ, estimated over all arms of a study.

    Attributes:
        variance: `[K]`, of one training around its arm's mean, on these patients.
        freedom: Degrees of freedom of the estimate, the sum of the arms' S - 1.
        unequal: `[K]`, p value of Bartlett's test that the arms have one spread; NaN with two trainings or fewer.
    """

    variance: Array
    freedom: int
    unequal: Array


@dataclass(frozen=True)
class Deviation:
    """What trainings add to the chance of a mean over them.

    Attributes:
        error: Standard error of the mean.
        freedom: Degrees of freedom of `error`.
    """

    error: float
    freedom: int


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

    def values(weights: Array) -> Array:
        return np.stack([statistic(weights) for statistic in statistics])

    return _draws(values, tables[0]["patient_id"].tolist(), draws, seed)


def mean_draws(values: Sequence[Array], patients: Sequence[str], draws: int = 2000, seed: int = 0) -> Draws:
    """Means over images of what each training scores on them, on each bootstrap draw of patients.

    Args:
        values: `[n, C]` of each of the S trainings: one score an image and finding, NaN where there is none.
        patients: Patient of each image.
        draws: Number of draws.
        seed: Seed of the draws.
    """

    def means(weights: Array) -> Array:
        counted = [(weights @ np.nan_to_num(value), weights @ ~np.isnan(value)) for value in values]
        each = np.stack([np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
                         for total, count in counted])  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a draw without any lesion
            return np.concatenate([each, np.nanmean(each, axis=2, keepdims=True)], axis=2)

    return _draws(means, patients, draws, seed)


def _draws(values: Callable[[Array], Array], patients: Sequence[str], draws: int, seed: int) -> Draws:
    """What `values` makes of weights `[D, n]` of the images, `[S, D, K]`: of equal ones, and of draws of patients."""
    full = values(np.ones((1, len(patients))))[:, 0]
    if len(set(patients)) < FEWEST_PATIENTS:
        return Draws(full, np.full((len(full), 1, full.shape[1]), np.nan))
    drawn = [values(weights) for weights in cluster_weights(patients, draws, seed)]
    return Draws(full, np.concatenate(drawn, axis=1))


def between_trainings(arms: Sequence[Draws]) -> Between | None:
    """The spread between trainings pooled over arms; None if every arm has one training."""
    several = [arm for arm in arms if len(arm.full) > 1]
    freedom = sum(len(arm.full) - 1 for arm in several)
    if not freedom:
        return None
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a finding that no test image has is NaN throughout
        apart = sum((len(arm.full) - 1) * arm.full.var(axis=0, ddof=1) for arm in several)
    return Between(apart / freedom, freedom, _unequal([a.full for a in several]))


def _unequal(values: Sequence[Array]) -> Array:
    """Bartlett's test of each column; NaN where an arm has fewer than three trainings, or values are the same."""
    result = np.full(values[0].shape[1], np.nan)
    for column in range(len(result)):
        groups = [value[:, column] for value in values]
        if len(groups) > 1 and all(len(group) > 2 and np.ptp(group) > 0 for group in groups):
            result[column] = bartlett(*groups).pvalue
    return result


def spreads(values: Draws, seed: int = 0, level: float = 0.95, between: Between | None = None) -> list[Spread]:
    """Mean over trainings with its interval, for each of the K columns.

    Args:
        values: Of one arm, or a difference of arms.
        seed: Seed of the deviations between trainings.
        level: Confidence level.
        between: Spread between trainings pooled over arms; None = each column's own, with S - 1 degrees of freedom.
    """
    found = []
    for k in range(values.full.shape[1]):
        deviation = None
        if between is not None:
            variance = values.arms * between.variance[k] / len(values.full)
            deviation = Deviation(float(np.sqrt(variance)), between.freedom)
        found.append(spread(values.full[:, k], values.drawn[:, :, k], seed, level, deviation))
    return found


def shares(values: Draws, seed: int = 0, level: float = 0.95, between: Between | None = None) -> list[Spread]:
    """`spreads` of metrics that lie in [0, 1], not of their differences: the limits do too."""
    found = spreads(values, seed, level, between)
    return [replace(s, low=float(np.clip(s.low, 0, 1)), high=float(np.clip(s.high, 0, 1))) for s in found]


def spread(full: Array, drawn: Array, seed: int = 0, level: float = 0.95, pooled: Deviation | None = None) -> Spread:
    """Mean over trainings with its interval.

    Args:
        full: `[S]`, the value of each training on all patients.
        drawn: `[S, D]`, on each draw of patients.
        seed: Seed of the deviations between trainings.
        level: Confidence level.
        pooled: Deviation of the mean estimated over several arms; None = from these trainings alone.
    """
    trainings = len(full)
    estimate = float(full.mean())
    deviation = float(full.std(ddof=1)) if trainings > 1 else float("nan")
    means = drawn.mean(axis=0)
    means = means[~np.isnan(means)]
    if np.isnan(estimate) or len(means) < FEWEST_DEFINED * drawn.shape[1] or not len(means):
        return Spread(estimate, deviation, float("nan"), float("nan"), float("nan"))
    if pooled is None and trainings > 1:
        pooled = Deviation(deviation / float(np.sqrt(trainings)), trainings - 1)
    if pooled is not None:
        noise = np.random.default_rng([seed, 1]).standard_t(pooled.freedom, len(means))
        means = means + pooled.error * noise
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    fewer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Spread(estimate, deviation, float(low), float(high), min(1.0, 2 * (fewer + 1) / (len(means) + 1)))
