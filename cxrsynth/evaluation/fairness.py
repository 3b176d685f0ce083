"""For whom is a classifier worse? Errors by sex, age, view, site and their pairs.

Underdiagnosis is the share of ill images in which nothing at all was found: the false-positive rate of "No Finding"
(Seyyed-Kalantari et al. 2021, doi:10.1038/s41591-021-01595-0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from cxrsynth.evaluation.metrics import METRICS, finding_names
from cxrsynth.evaluation.operating import DECISIONS, decided
from cxrsynth.evaluation.trainings import metric_draws, shares

COLUMNS = ("sex", "age band", "view", "site")
AGE_BANDS = ((0, 40, "under 40"), (40, 60, "40 to 59"), (60, 200, "60 and over"))
FEWEST_IMAGES = 25  # smaller groups say nothing


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


def fairness_table(
    tables: Sequence[pd.DataFrame],
    thresholds: Sequence[Mapping[str, float]],
    about: pd.DataFrame,
    draws: int = 500,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Errors of several trainings in each group, and in all images.

    Args:
        tables: Predictions of the trainings, the same images in the same order.
        thresholds: Of each training, chosen on validation patients.
        about: The images' `sex, age, view, site`, indexed by `image_id`.
        draws: Bootstrap draws of patients.
        seed: Seed of the draws.

    Returns:
        Rows of `group, images, patients, ill` and of `auroc`, `fnr`, `fpr` (means of the findings) and
        `underdiagnosis`, each with `estimate, deviation, low, high`.
    """
    rows_about = about.loc[tables[0]["image_id"]].reset_index(drop=True)
    masks = {"all images": pd.Series(True, index=rows_about.index), **groups(rows_about)}
    calls = [decided(table, dict(cut)) for table, cut in zip(tables, thresholds, strict=True)]
    anything = [anything_found(table, cut) for table, cut in zip(tables, thresholds, strict=True)]
    rows = []
    for name, mask in masks.items():
        parts = {kind: [table[mask.to_numpy()] for table in of] for kind, of in
                 (("prob", tables), ("call", calls), ("any", anything))}  # fmt: skip
        measured = {
            "auroc": metric_draws(parts["prob"], METRICS["auroc"], draws, seed),
            "fnr": metric_draws(parts["call"], DECISIONS["fnr"], draws, seed),
            "fpr": metric_draws(parts["call"], DECISIONS["fpr"], draws, seed),
            "underdiagnosis": metric_draws(parts["any"], DECISIONS["fnr"], draws, seed),
        }
        first = parts["any"][0]
        rows.append(
            {
                "group": name,
                "images": int(mask.sum()),
                "patients": int(first["patient_id"].nunique()),
                "ill": int((first["any_true"] == 1).sum()),
                **{key: asdict(shares(values, seed)[-1]) for key, values in measured.items()},
            }
        )
    return rows
