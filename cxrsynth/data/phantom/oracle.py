"""The oracle: what a film shows, measured from its pixels alone.

The measurements (`measurements.py`) are weighted by a table fitted on simulated films (`calibrate.py`). The oracle sees
no labels, seeds or masks, and no network is in it, so it can judge images made by one.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from cxrsynth.data.phantom.anatomy import Anatomy
from cxrsynth.data.phantom.archive import simulate
from cxrsynth.data.phantom.decoy import blob_decoy
from cxrsynth.data.phantom.layers import Measured
from cxrsynth.data.phantom.lesions import FINDINGS
from cxrsynth.data.phantom.measurements import Measurements, measure_film
from cxrsynth.data.phantom.render import Phantom, render
from cxrsynth.errors import UserError

SIDED = ("Effusion", "Consolidation", "Pneumothorax", "Atelectasis")  # judged lung by lung, the worse one counts
ROUND = ("Nodule",)  # judged candidate by candidate, the most suspicious one counts
WHOLE = ("Cardiomegaly", "AP", "F", "age")  # judged on the whole film
MISSING = -10.0  # the score of a nodule where not one round candidate exists


def measure(image: Any, anatomy: Anatomy | None = None) -> dict[str, Any]:
    """Score each finding, the view, the sex and the age.

    Args:
        image: `[H, W]` or `[B, 1, H, W]` float32 in [0, 1], array or tensor, square, air dark. 96 pixels or more.
        anatomy: Of a `[H, W]` film at 128 x 128, where it is known better than from these pixels.

    Returns:
        By name a float (`[H, W]`) or float32 `[B]`: log odds of each finding of `FINDINGS`, of "AP" (against PA) and
        of "F" (against M), at even prior odds; "age" in years.

    Raises:
        UserError: Another shape.
    """
    pixels = np.asarray(image, dtype=np.float32)
    if pixels.ndim == 2 and pixels.shape[0] == pixels.shape[1]:
        return scores(measure_film(pixels, anatomy))
    if pixels.ndim == 4 and pixels.shape[1] == 1 and pixels.shape[2] == pixels.shape[3]:
        each = [scores(measure_film(film)) for film in pixels[:, 0]]
        return {name: np.array([row[name] for row in each], dtype=np.float32) for name in (*FINDINGS, "AP", "F", "age")}
    raise UserError(f"image has shape {pixels.shape} but must be [H, W] or [B, 1, H, W] with H = W; pad it to a square")


def scores(measured: Measurements) -> dict[str, float]:
    """Scores of a film that has been measured."""
    table = _table()
    lungs = [table[side](lung) for side, lung in zip(("right", "left"), measured.sides, strict=True)]
    result = {name: max(lung[name] for lung in lungs) for name in SIDED}
    spots = [table["candidate"](spot) for spot in measured.candidates]
    result |= {name: max((spot[name] for spot in spots), default=MISSING) for name in ROUND}
    result |= table["film"](measured.film)
    return {name: result[name] for name in (*FINDINGS, "AP", "F", "age")}


class Weights:
    """A linear rule on named numbers, each as its standard score and the score's size (`expand`)."""

    def __init__(self, block: dict[str, Any]) -> None:
        self.names: list[str] = block["names"]
        self.mean, self.scale = np.array(block["mean"]), np.array(block["scale"])
        self.weights = {name: np.array(values) for name, values in block["weights"].items()}
        self.offset: dict[str, float] = block["offset"]

    def __call__(self, numbers: Measured) -> dict[str, float]:
        """Scores of one lung, candidate or film."""
        x = expand((np.array([numbers[name] for name in self.names]) - self.mean) / self.scale)
        return {name: float(x @ weights + self.offset[name]) for name, weights in self.weights.items()}


def expand(standard: NDArray) -> NDArray:
    """Standard scores `[..., N]` clipped to 4, then their sizes, which a linear rule cannot see itself: `[..., 2N]`."""
    clipped = np.clip(standard, -4, 4)
    return np.concatenate([clipped, np.abs(clipped) - 0.8], -1)


@cache
def _table() -> dict[str, Weights]:
    blocks = json.loads((files("cxrsynth.data.phantom") / "calibration.json").read_text())
    return {kind: Weights(block) for kind, block in blocks.items()}


def validate_oracle(count: int = 400, seed: int = 987_654, size: int = 128) -> dict[str, dict[str, float]]:
    """Print and return how well the oracle reads fresh films.

    Args:
        count: Number of films, half of them with findings.
        seed: Of an archive that the calibration has not seen.
        size: Pixels along a side.

    Returns:
        For each score `auroc` (for age: 70 and older against 40 and younger); for each finding also `severity` (rank
        correlation with severity), `over_blob` (how often the finding outscores a blob of the same place, extent and
        brightness); for age `correlation`.
    """
    films = [simulate(index, seed, size) for index in range(count)]
    read = [measure(film.image) for film in films]
    result = {name: _finding_quality(name, films, read) for name in FINDINGS}
    result["AP"] = {"auroc": _auroc([f.exposure.view == "AP" for f in films], [r["AP"] for r in read])}
    result["F"] = {"auroc": _auroc([f.patient.sex == "F" for f in films], [r["F"] for r in read])}
    age, guess = np.array([f.patient.age for f in films]), np.array([r["age"] for r in read])
    extreme = (age <= 40) | (age >= 70)
    result["age"] = {
        "auroc": _auroc(age[extreme] >= 70, guess[extreme]),
        "correlation": float(np.corrcoef(age, guess)[0, 1]),
    }
    for name, numbers in result.items():
        print(f"{name:14s}" + "  ".join(f"{key} {value:.3f}" for key, value in numbers.items()))
    return result


def _finding_quality(name: str, films: list[Phantom], read: list[dict[str, float]]) -> dict[str, float]:
    score = np.array([r[name] for r in read])
    severity = np.array([max((x.severity for x in f.lesions if x.finding == name), default=0.0) for f in films])
    shown = severity > 0
    healthy = np.array([not f.lesions for f in films])
    blobs = [measure(film_with_blob(film, name))[name] for film, s in zip(films, shown, strict=True) if s]
    pair = shown | healthy
    return {
        "auroc": _auroc(shown, score),
        "against healthy": _auroc(shown[pair], score[pair]),
        "severity": float(spearmanr(severity[shown], score[shown]).statistic),
        "over_blob": _auroc([True] * len(blobs) + [False] * len(blobs), [*score[shown], *blobs]),
    }


def film_with_blob(film: Phantom, finding: str) -> NDArray[np.float32]:
    """The same film with this finding replaced by a blob (`blob_decoy`)."""
    size = film.image.shape[0]
    healthy = render(film.patient, film.exposure, (), size).image
    lesion = next(x for x in film.lesions if x.finding == finding)
    return blob_decoy(healthy, film.image, lesion.mask)


def _auroc(truth: Any, score: Any) -> float:
    truth = np.asarray(truth)
    return float(roc_auc_score(truth, score)) if truth.any() and not truth.all() else float("nan")
