"""Two classifiers on the same images: does the second do better, finding by finding?"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrsynth.errors import UserError
from cxrsynth.evaluation.bootstrap import bootstrap
from cxrsynth.evaluation.metrics import METRICS, finding_names, metric_columns

SMALLEST_GAIN = 0.01
LOWER_IS_BETTER = ("brier", "ece")


def compare(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    metric: str = "auroc",
    draws: int = 2000,
    seed: int = 0,
    smallest_gain: float = SMALLEST_GAIN,
) -> pd.DataFrame:
    """Compare training on real images with training on real and synthetic ones, paired image by image.

    Args:
        real: Predictions of the classifier trained on real images (see `cxrsynth.evaluation.predictions`).
        synthetic: Predictions of the other one, for the same images in any order.
        metric: Name in `METRICS`.
        draws: Bootstrap draws of patients.
        seed: Seed of the draws.
        smallest_gain: Smallest gain worth having. When even the upper limit stays below it, the images did not help.

    Returns:
        One row a finding and a last one "macro" (mean over the findings), with the columns `finding, images, present,
        patients` (with the finding present), `real, real_low, real_high`, the same of `synthetic` and of `difference`
        (synthetic minus real), and `verdict`.

    Raises:
        UserError: The tables differ in images, findings or truth, or the metric is unknown.
    """
    if metric not in METRICS:
        raise UserError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")
    synthetic = _align(real, synthetic)
    first, second = (metric_columns(table, METRICS[metric]) for table in (real, synthetic))

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b = first(weights), second(weights)
        return np.concatenate([a, b, b - a], axis=1)

    intervals = bootstrap(statistic, real["patient_id"].tolist(), draws, seed)
    findings = [*finding_names(real), "macro"]
    rows = []
    for index, finding in enumerate(findings):
        row: dict[str, Any] = {"finding": finding, **_counts(real, finding)}
        for name, interval in zip(("real", "synthetic", "difference"), intervals[index :: len(findings)], strict=True):
            row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        gain = (row["difference_low"], row["difference_high"])
        if metric in LOWER_IS_BETTER:
            gain = (-gain[1], -gain[0])
        rows.append({**row, "verdict": verdict(*gain, smallest_gain)})
    return pd.DataFrame(rows)


def verdict(low: float, high: float, smallest_gain: float = SMALLEST_GAIN) -> str:
    """What an interval of the gain says: "helped", "did not help" or "cannot tell" (also when it is NaN)."""
    if low > 0:
        return "helped"
    return "did not help" if high < smallest_gain else "cannot tell"


def _align(real: pd.DataFrame, synthetic: pd.DataFrame) -> pd.DataFrame:
    if set(real["image_id"]) != set(synthetic["image_id"]) or len(real) != len(synthetic):
        raise UserError(
            "the two prediction tables are of different images; predict the same split with both classifiers"
        )
    if finding_names(real) != finding_names(synthetic):
        raise UserError(
            "the two prediction tables have different findings; train both classifiers on the same findings"
        )
    aligned = synthetic.set_index("image_id").loc[real["image_id"]].reset_index()
    for name in finding_names(real):
        if not np.array_equal(real[f"{name}_true"], aligned[f"{name}_true"], equal_nan=True):
            raise UserError(f"the two prediction tables differ in the truth of {name}; predict with one manifest")
    return aligned


def _counts(table: pd.DataFrame, finding: str) -> dict[str, int]:
    if finding == "macro":
        return {"images": len(table), "present": 0, "patients": table["patient_id"].nunique()}
    truth = table[f"{finding}_true"]
    present = truth == 1
    return {
        "images": int(truth.notna().sum()),
        "present": int(present.sum()),
        "patients": table.loc[present, "patient_id"].nunique(),
    }
