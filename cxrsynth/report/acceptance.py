"""How many of the planned images were accepted, and whether the selection chose better ones."""

from collections import Counter
from typing import Any

import pandas as pd

from cxrsynth.evaluation.effects import effects_table
from cxrsynth.report.collect import RunFolder
from cxrsynth.synthesis.outputs import accepted
from cxrsynth.synthesis.selection import LIMITS_FILE, PASTED, read_limits

CHECKS = {
    "gain": "the asked finding does not rise enough",
    "drift": "another finding changes too much",
    "lungs": "the lungs change outside the region",
    "seam": "a seam at the region's edge",
    "out_of_range": "brighter or darker than the film",
    "duplicate": "too like a training lesion",
    "registration": "the exemplar does not register",
    "region": "region too small or too large",
    "anatomy": "no lungs in the source",
    "unreadable": "a file cannot be read",
}


def acceptance(run: RunFolder) -> list[dict[str, Any]]:
    """A row a finding, last all of them: `finding, planned, painted, accepted, rate, pasted, reasons`.

    `pasted` has the `share` of real lesions that pass the limit of the gain when pasted where images are painted, and
    the number of `pairs` (see `cxrsynth.synthesis.calibration.Calibration`); None where it was not measured.
    Every reason of an image is counted, so they may add up to more than the images refused. Empty without a selection.
    """
    records = run.records or []
    if run.refused is None or not any("accepted" in record for record in records):
        return []
    painted = pd.Series([r["finding"] for r in records], dtype=object).value_counts()
    kept = pd.Series([r["finding"] for r in accepted(records)], dtype=object).value_counts()
    lost = run.refused[~run.refused["id"].isin({r["id"] for r in records})]["finding"].value_counts()
    path = run.path / LIMITS_FILE
    pasted = (read_limits(run.path) if path.is_file() else {}).get(PASTED, {})
    rows: list[dict[str, Any]] = []
    for finding in [*sorted({*painted.index, *lost.index}), None]:
        chosen = run.refused if finding is None else run.refused[run.refused["finding"] == finding]
        made, taken, unpainted = (
            int(counts.sum() if finding is None else counts.get(finding, 0)) for counts in (painted, kept, lost)
        )
        rows.append(
            {
                "finding": finding or "all",
                "planned": made + unpainted,
                "painted": made,
                "accepted": taken,
                "rate": taken / (made + unpainted) if made + unpainted else 0.0,
                "pasted": pasted.get(finding),
                "reasons": reasons(chosen["refused"]),
            }
        )
    return rows


def reasons(refused: pd.Series) -> dict[str, int]:
    """How often each check is named in a column of reasons (`check: ...; check: ...`), the most frequent first."""
    names = [part.partition(":")[0] for cell in refused.astype(str) for part in cell.split("; ")]
    counts = Counter(name for name in names if name in CHECKS)
    return {CHECKS[name]: counts[name] for name in sorted(counts, key=lambda name: (-counts[name], name))}


def risen(run: RunFolder) -> list[dict[str, Any]]:
    """For each judge the asked finding's mean rise, with its interval, over all images and over the accepted ones.

    Returns:
        Rows `scorer, images, difference, low, high, risen, chosen` with `chosen` "all" or "accepted".
    """
    if run.effects is None or not acceptance(run):
        return []
    asked = run.effects[run.effects["scored"] == run.effects["finding"]].assign(finding="any", scored="any")
    kept = {record["id"] for record in accepted(run.records or [])}
    rows: list[dict[str, Any]] = []
    for chosen, table in (("all", asked), ("accepted", asked[asked["id"].isin(kept)])):
        rows += [
            {**{str(k): v for k, v in row.items()}, "chosen": chosen} for row in effects_table(table).to_dict("records")
        ]
    return sorted(rows, key=lambda row: (row["scorer"] != "oracle", row["scorer"]))
