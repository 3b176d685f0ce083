"""DeLong's test of areas under correlated ROC curves, for clustered images and several trainings too."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contrast:
    """A difference of areas with its standard error, limits and two-sided p value."""

    difference: float
    error: float
    low: float
    high: float
    p: float


def placements(truth: Array, scores: Array) -> tuple[Array, Array]:
    """For each present image the share of absent ones below it, for each absent one that of present ones above it.

    By midranks (Sun and Xu 2014, doi:10.1109/LSP.2014.2337313, section III), ties counting half.

    Args:
        truth: `[n]`, 1 present (m of them), 0 absent.
        scores: `[k, n]`, k classifiers.

    Returns:
        `[k, m]` and `[k, n - m]`; the mean of either over its images is the AUROC.
    """
    present = truth == 1
    m, n = int(present.sum()), int((~present).sum())
    every = rankdata(scores, axis=1)
    above = (every[:, present] - rankdata(scores[:, present], axis=1)) / n
    below = 1 - (every[:, ~present] - rankdata(scores[:, ~present], axis=1)) / m
    return above, below


def delong(truth: Array, scores: Array, patients: Sequence[object] | None = None) -> tuple[Array, Array]:
    """Areas under k ROC curves of the same images, and their covariance.

    Args:
        truth: `[n]`, 1 present, 0 absent.
        scores: `[k, n]`.
        patients: Patient of each image; the images of one are then not taken as independent (Obuchowski 1997,
            doi:10.2307/2533958). None: every image is a patient (DeLong et al. 1988, doi:10.2307/2531595).

    Returns:
        `[k]` and `[k, k]`; NaN where there are fewer than two patients with or without the finding.
    """
    present = truth == 1
    m, n = int(present.sum()), int((~present).sum())
    if min(m, n) == 0:
        return np.full(len(scores), np.nan), np.full((len(scores),) * 2, np.nan)
    above, below = placements(truth, scores)
    areas = above.mean(axis=1)
    codes = np.arange(len(truth)) if patients is None else pd.factorize(np.asarray(patients, dtype=object))[0]
    count = int(codes.max()) + 1
    with_finding, without = (_sums(part - areas[:, None], codes[mask], count) for part, mask in
                             ((above, present), (below, ~present)))  # fmt: skip
    first, second = len(np.unique(codes[present])), len(np.unique(codes[~present]))
    if min(first, second) < 2:
        return areas, np.full((len(scores),) * 2, np.nan)
    s10 = first / (first - 1) / m * with_finding @ with_finding.T
    s01 = second / (second - 1) / n * without @ without.T
    s11 = count / (count - 1) * with_finding @ without.T
    return areas, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


def delong_test(
    truth: Array, first: Array, second: Array, patients: Sequence[object] | None = None, level: float = 0.95
) -> Contrast:
    """Mean area of some trainings minus that of others, on the same images.

    The spread between trainings is not in it: the trained networks are taken as they are.

    Args:
        truth: `[n]`, 1 present, 0 absent.
        first: `[a, n]`, scores of a trainings.
        second: `[b, n]`, scores of the trainings that the difference is in favour of.
        patients: See `delong`.
        level: Confidence level.
    """
    areas, covariance = delong(truth, np.concatenate([first, second]), patients)
    weights = np.repeat([-1 / len(first), 1 / len(second)], [len(first), len(second)])
    difference, error = float(weights @ areas), float(np.sqrt(max(0.0, weights @ covariance @ weights)))
    if np.isnan(covariance).any():
        return Contrast(difference, float("nan"), float("nan"), float("nan"), float("nan"))
    reach = norm.ppf((1 + level) / 2) * error
    p = 2 * norm.sf(abs(difference) / error) if error > 1e-12 else 1.0
    return Contrast(difference, error, difference - reach, difference + reach, float(p))


def _sums(values: Array, codes: NDArray[np.int64], count: int) -> Array:
    """Sums `[k, patients]` of values `[k, images]` over the images of each patient."""
    return np.stack([np.bincount(codes, row, count) for row in values])
