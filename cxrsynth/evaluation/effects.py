"""Did painting a finding make the finding's score rise? Paired differences of source and result."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrsynth.errors import UserError
from cxrsynth.evaluation.bootstrap import Statistic, bootstrap

COLUMNS = ("id", "finding", "source_patient", "scorer", "scored", "before", "after")
RESULTS = (
    *("scorer", "finding", "scored", "images", "patients"),
    *("before", "after", "difference", "low", "high", "risen", "verdict"),
)


def paired_scores(
    plan: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame, scorer: str, patients: Mapping[str, str]
) -> pd.DataFrame:
    """Line up the scores of sources and results in the long form that `effects_table` takes.

    Args:
        plan: `id, source_id, finding`, one row an image made.
        before: Scores of the untouched sources: index `source_id`, one column a finding.
        after: Scores of the results: index `id`, the same columns.
        scorer: Name of what gave the scores, for example "oracle".
        patients: Patient of each source; a source that is missing is a patient of its own.

    Returns:
        `id, finding, source_patient, scorer, scored, before, after`: one row for every image and every column of the
        scores. Where `scored` is not the `finding` asked for, the row shows what else changed.
    """
    rows = [
        (identity, finding, patients.get(source), scorer, name, before.at[source, name], after.at[identity, name])
        for identity, source, finding in plan[["id", "source_id", "finding"]].astype(str).to_numpy().tolist()
        for name in after
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def effects_table(effects: pd.DataFrame, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Mean change of every score with its interval, clustered by source patient.

    Args:
        effects: Rows as `paired_scores` makes them; without a column `scored`, every row scores the finding asked for.
        draws: Bootstrap draws of source patients.
        seed: Seed of the draws.

    Returns:
        One row for each scorer, finding asked for and finding scored: `scorer, finding, scored, images, patients,
        before, after, difference, low, high, risen` (share of images whose score rose) and `verdict` ("rises", "falls"
        or "cannot tell"). Rows whose `scored` equals `finding` come first.

    Raises:
        UserError: A column is missing.
    """
    needed = [name for name in COLUMNS if name != "scored"]
    if missing := [name for name in needed if name not in effects]:
        raise UserError(f"the effects table lacks {', '.join(missing)}; it needs {', '.join(needed)}")
    table = effects if "scored" in effects else effects.assign(scored=effects["finding"])
    table = table.dropna(subset=["before", "after"])
    rows = []
    for (scorer, finding, scored), group in table.groupby(["scorer", "finding", "scored"], sort=True):
        change = (group["after"] - group["before"]).to_numpy(np.float64)
        (interval,) = bootstrap(_mean(change), group["source_patient"].tolist(), draws, seed)
        rows.append(
            {
                "scorer": scorer,
                "finding": finding,
                "scored": scored,
                "images": len(group),
                "patients": group["source_patient"].nunique(),
                "before": float(group["before"].mean()),
                "after": float(group["after"].mean()),
                "difference": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "risen": float((change > 0).mean()),
                "verdict": "rises" if interval.low > 0 else "falls" if interval.high < 0 else "cannot tell",
            }
        )
    rows.sort(key=lambda row: row["scored"] != row["finding"])
    return pd.DataFrame(rows, columns=list(RESULTS))


def _mean(change: NDArray[np.float64]) -> Statistic:
    return lambda weights: (weights @ change / weights.sum(axis=1))[:, None]
