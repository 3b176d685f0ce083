"""For whom is a classifier worse? Errors by sex, age, view, site and their pairs.

Underdiagnosis is the share of ill images in which nothing at all was found: the false-positive rate of "No Finding"
(Seyyed-Kalantari et al. 2021, doi:10.1038/s41591-021-01595-0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from cxrsynth.evaluation.metrics import METRICS, Metric, finding_names
from cxrsynth.evaluation.operating import DECISIONS, decided
from cxrsynth.evaluation.trainings import between_trainings, metric_draws, shares

COLUMNS = ("sex", "age band", "view", "site")
AGE_BANDS = ((0, 40, "under 40"), (40, 60, "40 to 59"), (60, 200, "60 and over"))
FEWEST_IMAGES = 25  # smaller groups say nothing
MEASURES: dict[str, tuple[str, Metric]] = {
    "auroc": ("prob", METRICS["auroc"]),
    "fnr": ("call", DECISIONS["fnr"]),
    "fpr": ("call", DECISIONS["fpr"]),
    "underdiagnosis": ("any", DECISIONS["fnr"]),
}
"""Metrics, and which kind of the predictions each is of (`_kinds`)."""


def groups(about: pd.DataFrame) -> dict[str, pd.Series]:
    """Masks of the groups of images that are large enough, pairs of columns included.

    Args:
        about: One row an image, with `sex`, `age`, `view` and `site` (empty = unknown).

    Returns:
        By name a bool Series on the table's index. A column with one value makes no groups.
    """
    age = pd.to_numeric(about["age"], errors="coerce")
    bands = pd.Series("", index=about.index)
    for low, high, name in AGE_BANDS:
        bands[(age >= low) & (age < high)] = name
    table = pd.DataFrame({"sex": about["sex"], "age band": bands, "view": about["view"], "site": about["site"]})
    table = table.fillna("").astype(str)
    varied = [column for column in COLUMNS if table.loc[table[column] != "", column].nunique() > 1]
    found = {}
    for number, first in enumerate(varied):
        for second in ("", *varied[number + 1 :]):
            both = table[first] + (", " + table[second] if second else "")
            known = (table[first] != "") & ((table[second] != "") if second else True)
            for value in sorted(set(both[known])):
                mask = (both == value) & known
                if mask.sum() >= FEWEST_IMAGES:
                    found[value] = mask
    return found


def anything_found(table: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """The table as one finding "any": whether any was called, and whether any is there (unknown if none is known)."""
    findings = finding_names(table)
    calls = decided(table, dict(thresholds))[[f"{name}_prob" for name in findings]].to_numpy(np.float64)
    truth = table[[f"{name}_true" for name in findings]].to_numpy(np.float64)
    present, unknown = (truth == 1).any(axis=1), np.isnan(truth).any(axis=1)
    return table[["image_id", "patient_id"]].assign(
        any_prob=(calls == 1).any(axis=1).astype(float), any_true=np.where(present, 1.0, np.where(unknown, np.nan, 0.0))
    )


def fairness_tables(
    arms: Mapping[str, tuple[Sequence[pd.DataFrame], Sequence[Mapping[str, float]]]],
    about: pd.DataFrame,
    draws: int = 500,
    seed: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """Errors of several trainings of each arm in each group, and in all images.

    Args:
        arms: Of each arm the predictions of its trainings, all of the same images in the same order, and the thresholds
            of each training, chosen on validation patients. The spread between trainings is pooled over the arms.
        about: The images' `sex, age, view, site`, indexed by `image_id`.
        draws: Bootstrap draws of patients.
        seed: Seed of the draws.

    Returns:
        By arm, rows of `group, images, patients, ill` and of `auroc`, `fnr`, `fpr` (means of the findings) and
        `underdiagnosis`, each with `estimate, deviation, low, high`.
    """
    anyone = next(iter(arms.values()))[0][0]
    rows_about = about.loc[anyone["image_id"]].reset_index(drop=True)
    masks = {"all images": pd.Series(True, index=rows_about.index), **groups(rows_about)}
    rows: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    kinds = {arm: _kinds(tables, thresholds) for arm, (tables, thresholds) in arms.items()}
    for name, mask in masks.items():
        chosen = mask.to_numpy()
        found: dict[str, dict[str, Any]] = {arm: {} for arm in arms}
        for measure, (kind, metric) in MEASURES.items():
            values = {arm: metric_draws([table[chosen] for table in of[kind]], metric, draws, seed)
                      for arm, of in kinds.items()}  # fmt: skip
            between = between_trainings(list(values.values()))
            for arm, value in values.items():
                found[arm][measure] = asdict(shares(value, seed, between=between)[-1])
        for arm, of in kinds.items():
            first = of["any"][0][chosen]
            group = {"group": name, "images": int(mask.sum()), "patients": int(first["patient_id"].nunique())}
            rows[arm].append({**group, "ill": int((first["any_true"] == 1).sum()), **found[arm]})
    return rows


def _kinds(tables: Sequence[pd.DataFrame], thresholds: Sequence[Mapping[str, float]]) -> dict[str, list[pd.DataFrame]]:
    """Probabilities, calls at the thresholds, and whether anything was called."""
    pairs = list(zip(tables, thresholds, strict=True))
    return {
        "prob": list(tables),
        "call": [decided(table, dict(cut)) for table, cut in pairs],
        "any": [anything_found(table, cut) for table, cut in pairs],
    }
