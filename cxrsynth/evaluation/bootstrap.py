"""The patient-cluster bootstrap: patients are drawn with replacement, all images of a patient together.

Images of one patient are not independent, so drawing images would make intervals too narrow (Field and Welsh 2007,
doi:10.1111/j.1467-9868.2007.00593.x). A draw is a vector of image weights: how often the image's patient was drawn. A
statistic that takes weights is computed for all draws at once, and two models under the same weights are paired.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]

CHUNK = 2_000_000  # weights held at a time, 16 MB
FEWEST_DEFINED = 0.5  # share of draws that must give a value, else there is no interval
FEWEST_PATIENTS = 5  # fewer show nothing of the spread between patients


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits; NaN where undefined."""

    estimate: float
    low: float
    high: float


def cluster_weights(clusters: Sequence[object], draws: int, seed: int) -> Iterator[Array]:
    """Image weights of the bootstrap draws, in chunks.

    Args:
        clusters: Patient of each of the n images; each missing (NaN, None) one is a patient of its own.
        draws: Number of draws.
        seed: Seed; the same clusters, draws and seed give the same weights.

    Yields:
        `[d, n]`, how often each image is drawn; the d add up to `draws`.
    """
    codes, count = _codes(clusters)
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // max(1, len(codes), count))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times[:, codes].astype(np.float64)


def bootstrap(
    statistic: Statistic, clusters: Sequence[object], draws: int = 2000, seed: int = 0, level: float = 0.95
) -> list[Interval]:
    """Percentile intervals of one or more statistics (Efron and Tibshirani 1993, chapter 13).

    Args:
        statistic: Maps image weights `[d, n]` to values `[d, K]`, NaN where undefined.
        clusters: Patient of each image, length n.
        draws: Number of draws.
        seed: Seed of the draws.
        level: Confidence level.

    Returns:
        One interval for each of the K statistics. Draws without a value (a finding none of whose patients was drawn)
        are left out; where more than half have none, or there are fewer than five patients, the limits are NaN.
    """
    estimate = statistic(np.ones((1, len(clusters))))[0]
    if _codes(clusters)[1] < FEWEST_PATIENTS:
        return [Interval(float(value), float("nan"), float("nan")) for value in estimate]
    values = np.concatenate([statistic(weights) for weights in cluster_weights(clusters, draws, seed)])
    return [_interval(*column, level=level) for column in zip(estimate, values.T, strict=True)]


def _codes(clusters: Sequence[object]) -> tuple[NDArray[np.int64], int]:
    """Number of each image's patient, and how many patients there are."""
    codes, names = pd.factorize(np.asarray(clusters, dtype=object))
    unknown = codes < 0
    codes[unknown] = len(names) + np.arange(unknown.sum())
    return codes, len(names) + int(unknown.sum())


def _interval(estimate: float, values: Array, level: float) -> Interval:
    defined = values[~np.isnan(values)]
    if np.isnan(estimate) or len(defined) < FEWEST_DEFINED * len(values):
        return Interval(float(estimate), float("nan"), float("nan"))
    tail = (1 - level) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return Interval(float(estimate), float(low), float(high))
