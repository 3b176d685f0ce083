"""Who may be a source and who an exemplar: training images with what matching and cohorts look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.split import check_patients
from cxrsynth.errors import UserError
from cxrsynth.synthesis.likeness import Likeness

COHORTS = ("sex", "age", "view", "site")
WEIGHTS = ("sex", "age", "view", "body", "similarity", "quality", "use")
YEARS, BODY = 20.0, 0.1  # differences that count as much as another sex: years of age, share of the chest's size


@dataclass(frozen=True)
class Candidates:
    """N training images in an order that depends on their ids and the seed alone.

    Attributes:
        ids: `[N]`, their image_id.
        patients: int `[N]`.
        cells: int `[N]`; source and exemplar must be of one cell (site, view).
        cohorts: int `[N]`, the cohort that an image counts for.
        cohort_names: What each cohort is.
        sources: bool `[N]`, healthy, and of the cohorts asked for.
        has: bool `[N, C]`, which finding is present.
        features: float64 `[N, D]`; their distance says how unlike two patients are.
        thumbnails: float16 `[N, T]` of unit length, or None: their product is a correlation before registration.
    """

    ids: NDArray[Any]
    patients: NDArray[np.int64]
    cells: NDArray[np.int64]
    cohorts: NDArray[np.int64]
    cohort_names: list[str]
    sources: NDArray[np.bool_]
    has: NDArray[np.bool_]
    features: NDArray[np.float64]
    thumbnails: NDArray[np.float16] | None


def find_candidates(
    manifest: Manifest,
    splits: pd.DataFrame,
    findings: Sequence[str],
    *,
    same: Sequence[str],
    only: Mapping[str, Sequence[Any]],
    balance: Sequence[str],
    age_bands: Sequence[float],
    weights: Mapping[str, float],
    likeness: Likeness | None,
    seed: int,
) -> Candidates:
    """Gather the training images; for the arguments see `cxrsynth.synthesis.plan.make_plan`.

    Raises:
        UserError: A cohort or a weight that there is not, or a patient in two splits.
    """
    check_patients(splits, "the splits")
    train = splits[splits["split"] == "train"]
    patient_of = dict(zip(train["image_id"].tolist(), train["patient_id"].tolist(), strict=True))
    names = manifest.table["image_id"].tolist()
    order = np.array(sorted((k for k, name in enumerate(names) if name in patient_of), key=names.__getitem__), np.int64)
    rows = order[np.random.default_rng(seed).permutation(len(order))]
    table = manifest.table.iloc[rows]
    ids = table["image_id"].to_numpy(object)
    bands = _bands(table["age"].to_numpy(float), age_bands)
    columns = {"age": bands, **{name: table[name].to_numpy(object) for name in ("sex", "view", "site")}}
    cohorts, cohort_names = _codes([columns[name] for name in _known(balance, COHORTS, "balance")], len(rows))
    wanted = np.ones(len(rows), bool)
    for name, values in only.items():
        _known([name], COHORTS, "only")
        wanted &= _within(table["age"].to_numpy(float), values) if name == "age" else table[name].isin(list(values))
    return Candidates(
        ids=ids,
        patients=pd.factorize(np.array([patient_of[name] for name in ids], object))[0].astype(np.int64),
        cells=_codes([columns[name] for name in same], len(rows))[0],
        cohorts=cohorts,
        cohort_names=cohort_names,
        sources=manifest.healthy[rows] & wanted,
        has=manifest.targets(findings).numpy()[rows] == 1,
        features=_features(table, ids, weights, likeness),
        thumbnails=likeness.thumbnails[likeness.rows(ids)] if weights["quality"] and likeness is not None else None,
    )


def check_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """All of `WEIGHTS`; those that are not given are 1 for sex, age and use, else 0.

    Raises:
        UserError: An unknown name or a negative weight.
    """
    given = dict(weights or {})
    _known(list(given), WEIGHTS, "weights")
    wrong = [name for name, value in given.items() if not 0 <= value < np.inf]
    if wrong:
        raise UserError(f"weights: {wrong[0]} is {given[wrong[0]]}; give numbers of 0 or more")
    usual = {name: float(name in ("sex", "age", "use")) for name in WEIGHTS}
    return {**usual, **given}


def _known(names: Sequence[str], choices: Sequence[str], argument: str) -> Sequence[str]:
    strange = [name for name in names if name not in choices]
    if strange:
        raise UserError(f"{argument} names {strange[0]!r}; choose from {', '.join(choices)}")
    return names


def _codes(columns: Sequence[NDArray[Any]], length: int) -> tuple[NDArray[np.int64], list[str]]:
    """One number for each combination of values, in the values' order, and what it stands for."""
    codes, names = np.zeros(length, np.int64), ["all"]
    for column in columns:
        own, values = pd.factorize(pd.Series(column).astype(str), sort=True)
        codes, used = pd.factorize(codes * len(values) + own, sort=True)
        names = [f"{names[k // len(values)]}, {values[k % len(values)] or 'unknown'}" for k in used.tolist()]
    return codes.astype(np.int64), [name.removeprefix("all, ") for name in names]


def _bands(ages: NDArray[np.float64], edges: Sequence[float]) -> NDArray[Any]:
    if list(edges) != sorted(set(edges)):
        raise UserError(f"age_bands are {list(edges)}; give rising ages at which a new band begins")
    limits = ["0", *(f"{edge:g}" for edge in edges), ""]
    names = np.array([f"age {low} to {high}".removesuffix(" to ") for low, high in pairwise(limits)])
    return np.where(np.isnan(ages), "", names[np.digitize(ages, edges)])


def _within(ages: NDArray[np.float64], limits: Sequence[Any]) -> NDArray[np.bool_]:
    if len(limits) != 2:
        raise UserError(f"only: age is {list(limits)}; give the youngest age and the first that is too old")
    return (ages >= float(limits[0])) & (ages < float(limits[1]))


def _features(
    table: pd.DataFrame, ids: NDArray[Any], weights: Mapping[str, float], likeness: Likeness | None
) -> NDArray[np.float64]:
    """Columns whose Euclidean distance is 1 for another sex, 20 years, another view or a tenth of the chest's size."""
    columns: list[NDArray[np.float64]] = []
    if weights["sex"]:
        sex = table["sex"].str.upper().str[:1]
        signs = np.where(sex == "F", 1.0, np.where(sex == "M", -1.0, 0.0))
        columns.append(signs[:, None] * (weights["sex"] / 2))
    if weights["age"]:
        ages = table["age"].to_numpy(float)
        usual = np.nanmean(ages) if np.isfinite(ages).any() else 0.0
        columns.append(np.where(np.isnan(ages), usual, ages)[:, None] / YEARS * weights["age"])
    if weights["view"]:
        columns.append(pd.get_dummies(table["view"]).to_numpy(float) / np.sqrt(2) * weights["view"])
    if weights["body"] or weights["similarity"] or weights["quality"]:
        if likeness is None:
            raise UserError("weights of body, similarity and quality need the images to be measured; give a likeness")
        rows = likeness.rows(ids)
        if weights["body"]:
            columns.append(likeness.body[rows] / BODY * weights["body"])
        if weights["similarity"]:
            if likeness.embedding is None:
                raise UserError("a weight of similarity needs an encoder; give its checkpoint")
            columns.append(likeness.embedding[rows] * weights["similarity"])
    return np.concatenate(columns, 1) if columns else np.zeros((len(ids), 1))
