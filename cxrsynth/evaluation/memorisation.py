"""Did the generator give training images back?

An image is suspicious when its nearest training image is much nearer than the next ones: the ratio of the nearest
distance to the mean of the following ones (Carlini et al. 2023, arXiv 2301.13188, section 4.2). What is much is not
guessed at: the same ratio of real held-out images to the same training images, which cannot have been copied, tells how
often it happens by chance (a conformal p value for each image).

Held-out images are a sample too. With m of them, p is at most 0.05 where a ratio is below the k-th smallest of theirs,
k = floor(0.05 (m + 1)); of images that copy nothing a share drawn from Beta(k, m + 1 - k) is (the k-th smallest of m
uniform numbers), not always 5 %. So "nearer than by chance" is said only where the lower limit of the images' share is
above the upper limit of that one. Each limit is wrong once in 40 times, so the words are once in 20 times at most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta, t
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = 10
SIDE = 24  # pixels of the pictures that are compared
ALPHA = 0.05
TOLERATED = 0.15  # share of images at or below ALPHA that may be exceeded by chance and shared calibration
LEVEL = 0.95  # of the share's interval
MEMORISED, NEARER, NO_SIGN = "memorised", "nearer than by chance", "no sign of copying"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Copied:
    """What the test says.

    Attributes:
        p: `[n]`, of each image: the chance that a real held-out image is as near to a training image. NaN = untested.
        nearest: `[n]`, number of its nearest training image; -1 = untested.
        share: Share of the tested images with p at or below 0.05; 0.05 is what chance gives on average.
        low: Lower 95 % limit of the share, over source patients.
        high: Upper limit.
        by_chance: Upper 95 % limit of the share that chance gives with these held-out images.
        word: `NEARER` where `low` is above `by_chance`, `MEMORISED` where it is above 0.15 too, else `NO_SIGN`.
    """

    p: Array
    nearest: NDArray[np.int64]
    share: float
    low: float
    high: float
    by_chance: float
    word: str

    @property
    def memorised(self) -> bool:
        """Whether the word is `MEMORISED`."""
        return self.word == MEMORISED


def pictures(images: Tensor, region: Tensor | None = None) -> Array:
    """Images as vectors of zero mean and unit length, so that tone does not count and copies lie at distance 0.

    Args:
        images: `[n, 1, S, S]`.
        region: `[S, S]` bool: compare only what lies in it, at the resolution of its bounding box.

    Returns:
        `[n, d]`; a constant image is 0.
    """
    if region is not None:
        rows, columns = region.any(1).nonzero().flatten(), region.any(0).nonzero().flatten()
        top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
        images = images[..., top:bottom, left:right]
        region = region[top:bottom, left:right]
    small = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)[:, 0]
    inside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    if region is not None:
        inside = F.adaptive_max_pool2d(region.float()[None, None], SIDE)[0, 0] > 0
    values = small[:, inside].double().numpy()
    values = values - values.mean(axis=1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)


def nearness(queries: Array, training: Array, forbidden: NDArray[np.bool_]) -> tuple[Array, NDArray[np.int64]]:
    """Distance to the nearest training image over the mean distance to the next ones.

    Args:
        queries: `[q, d]`.
        training: `[n, d]`.
        forbidden: Bool `[q, n]`: pairs that do not count (the source's own patient, kept by design).

    Returns:
        `[q]` in [0, 1], NaN where fewer than three training images count, and the nearest one's number `[q]`.
    """
    squared = np.maximum(2 - 2 * queries @ training.T, 0)
    distance = np.where(forbidden, np.inf, np.sqrt(squared))
    order = np.argsort(distance, axis=1)[:, : NEIGHBOURS + 1]
    near = np.take_along_axis(distance, order, axis=1)
    finite = np.isfinite(near)
    rest = np.where(finite, near, 0)[:, 1:].sum(axis=1) / np.maximum(finite[:, 1:].sum(axis=1), 1)
    enough = finite.sum(axis=1) >= 3
    return np.where(enough, near[:, 0] / np.maximum(rest, 1e-12), np.nan), np.where(enough, order[:, 0], -1)


def share_limits(hits: NDArray[np.bool_], owners: Sequence[str]) -> tuple[float, float]:
    """Limits of a share of images of which several may come from one patient.

    After Korn and Graubard (1998, Survey Methodology 24): Clopper and Pearson's limits at the number of independent
    images n* = s (1 - s) / var(s) (t_{n-1} / t_{c-1})^2, with the share s, its variance between the c patients, and at
    most n, which n* also is where the patients do not differ (var(s) up to 1e-12). Where all or none are hit, or all
    images are of one patient, there is no telling how alike a patient's images are: n* = c.

    Args:
        hits: Bool `[n]`.
        owners: `[n]`, patient of each; empty = one of its own.

    Returns:
        Lower and upper 95 % limit.
    """
    n, share = len(hits), float(hits.mean())
    clusters = np.unique([owner or f"\n{i}" for i, owner in enumerate(owners)], return_inverse=True)[1]
    c = int(clusters.max()) + 1
    variance = (np.bincount(clusters, hits - share) ** 2).sum() / n**2 * c / max(c - 1, 1)
    effective = float(c)
    if 0 < share < 1 and c > 1:
        upper = (1 + LEVEL) / 2
        of_patients = share * (1 - share) / max(variance, 1e-12)  # the variance may be 0 but for rounding
        effective = min(n, of_patients * (t.ppf(upper, n - 1) / t.ppf(upper, c - 1)) ** 2)
    hit, tail = share * effective, (1 - LEVEL) / 2
    low = beta.ppf(tail, hit, effective - hit + 1) if share > 0 else 0.0
    high = beta.ppf(1 - tail, hit + 1, effective - hit) if share < 1 else 1.0
    return float(low), float(high)


def chance_limit(held_out: int, patients: int) -> float:
    """Upper 95 % limit of the share of images that copy nothing with p at or below 0.05.

    Args:
        held_out: Number m of held-out images.
        patients: Number c of theirs. Images of one patient may be alike: Beta(k, m + 1 - k) is then taken as wide as c
            images alone would make it.
    """
    share = math.floor(ALPHA * (held_out + 1) + 1e-9) / (held_out + 1)
    if share == 0:
        return 0.0  # too few held-out images for so small a p
    return float(beta.ppf((1 + LEVEL) / 2, share * (patients + 1), (1 - share) * (patients + 1)))


def calibrated(
    ratios: Array,
    nearest: NDArray[np.int64],
    reference: Sequence[Array],
    owners: Sequence[str],
    held_out_owners: Sequence[str] = (),
) -> Copied:
    """Compare the images' ratios with those of held-out images.

    Args:
        ratios: `[n]` from `nearness`.
        nearest: `[n]` from `nearness`.
        reference: For each image the held-out images' ratios at the same place.
        owners: Patient of each image's source; empty = none.
        held_out_owners: Patient of each held-out image; without it each has its own.
    """
    p = np.full(len(ratios), np.nan)
    held_out = 0
    for number, (ratio, others) in enumerate(zip(ratios, reference, strict=True)):
        known = others[~np.isnan(others)]
        if not np.isnan(ratio) and len(known):
            p[number] = (1 + (known <= ratio).sum()) / (1 + len(known))
            held_out = min(held_out or len(known), len(known))
    tested = ~np.isnan(p)
    if not tested.any():
        return Copied(p, nearest, math.nan, math.nan, math.nan, math.nan, NO_SIGN)
    hits = p[tested] <= ALPHA
    low, high = share_limits(hits, [owner for owner, kept in zip(owners, tested, strict=True) if kept])
    by_chance = chance_limit(held_out, len(set(held_out_owners)) or held_out)
    word = NO_SIGN if low <= by_chance else NEARER if low <= TOLERATED else MEMORISED
    return Copied(p, nearest, float(hits.mean()), low, high, by_chance, word)


def compare_images(
    synthetic: Tensor,
    training: Tensor,
    held_out: Tensor,
    owners: Sequence[str],
    training_owners: Sequence[str],
    regions: Tensor | None = None,
    held_out_owners: Sequence[str] = (),
) -> Copied:
    """The test for whole images or, with regions, for what was painted.

    Args:
        synthetic: `[q, 1, S, S]`.
        training: `[n, 1, S, S]`.
        held_out: `[h, 1, S, S]`, of patients that nothing was trained on.
        owners: Patient of each synthetic image's source; empty = none.
        training_owners: Patient of each training image.
        regions: Bool `[q, S, S]`, or None for whole images.
        held_out_owners: Patient of each held-out image; without it each has its own.
    """
    forbidden = np.array([[bool(a) and a == b for b in training_owners] for a in owners], bool)
    nobody = np.zeros((len(held_out), len(training)), bool)
    if regions is None:
        vectors = pictures(training)
        ratios, nearest = nearness(pictures(synthetic), vectors, forbidden)
        reference = nearness(pictures(held_out), vectors, nobody)[0]
        return calibrated(ratios, nearest, [reference] * len(ratios), owners, held_out_owners)
    found, places = [], []
    for image, region, own in zip(synthetic, regions, forbidden, strict=True):
        if not region.any():
            found.append((np.full(1, np.nan), np.full(1, -1)))
            places.append(np.zeros(0))
            continue
        vectors = pictures(training, region)
        found.append(nearness(pictures(image[None], region), vectors, own[None]))
        places.append(nearness(pictures(held_out, region), vectors, nobody)[0])
    ratios, nearest = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return calibrated(ratios, nearest, places, owners, held_out_owners)
