"""How well attention maps find lesions: intervals over patients, beside baselines and the gain over each."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrsynth.evaluation.bootstrap import Statistic, bootstrap

HIT = (0.1, 0.25, 0.5)
"""A region hits a lesion where their IoU reaches one of these."""
MEASURES = ("pointing", "iou", *(f"hit_{threshold}" for threshold in HIT))


def localisation_table(rows: pd.DataFrame, patients: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every measure of every method with its interval, for each finding and, last, over all lesions.

    Args:
        rows: What `cxrsynth.attention.localisation.localise` returns: a row for each lesion and method.
        patients: Patient of each image; an image without one counts as a patient of its own.

    Returns:
        For each finding and for "all": `finding, lesions, chance` (mean share of the image that a lesion covers) and,
        for each of `MEASURES`, a dictionary from method, and from "gain over <baseline>" (paired), to `Interval`.
    """
    rows = rows.assign(**{f"hit_{threshold}": rows["iou"] >= threshold for threshold in HIT})
    tables = {name: rows.pivot(index=["image_id", "finding"], columns="method", values=name) for name in MEASURES}
    columns: dict[tuple[str, str], NDArray[np.float64]] = {}
    for measure, wide in tables.items():
        methods = {str(method): wide[method].to_numpy(np.float64) for method in wide}
        gains = {f"gain over {m}": methods["attention"] - scores for m, scores in methods.items() if m != "attention"}
        columns |= {(measure, method): scores for method, scores in (methods | gains).items()}
    values = np.stack(list(columns.values()), axis=1)
    lesions = tables["pointing"].index.to_frame(index=False)
    owners = lesions["image_id"].map(patients).fillna(lesions["image_id"])
    result = []
    for finding in [*sorted(set(lesions["finding"])), "all"]:
        part = (lesions["finding"] == finding).to_numpy() | (finding == "all")
        intervals = bootstrap(_means(values[part]), owners[part].tolist())
        row: dict[str, Any] = {"finding": finding, "lesions": int(part.sum())}
        row["chance"] = rows.loc[(rows["finding"] == finding) | (finding == "all"), "area_share"].mean()
        for (measure, method), interval in zip(columns, intervals, strict=True):
            row.setdefault(measure, {})[method] = interval
        result.append(row)
    return result


def _means(values: NDArray[np.float64]) -> Statistic:
    return lambda weights: weights @ values / weights.sum(axis=1, keepdims=True)
