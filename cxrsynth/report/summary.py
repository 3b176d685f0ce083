"""Every figure of the report, computed once and ready for JSON; page and Markdown only arrange it."""

import platform
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from cxrsynth import __version__
from cxrsynth.data.manifest import Manifest
from cxrsynth.evaluation.compare import compare
from cxrsynth.evaluation.effects import effects_table
from cxrsynth.evaluation.exactness import check_exactness
from cxrsynth.evaluation.localisation import MEASURES, localisation_table
from cxrsynth.evaluation.metrics import METRICS
from cxrsynth.files import sha256_file
from cxrsynth.report.acceptance import acceptance, risen
from cxrsynth.report.collect import RunFolder
from cxrsynth.report.gallery import reason_kind

PACKAGES = ("torch", "lightning", "monai", "torchmetrics", "kornia", "numpy", "pandas", "pydicom", "scikit-learn")


def summarise(run: RunFolder) -> dict[str, Any]:
    """All figures of a run.

    Returns:
        A dictionary that JSON can hold (no NaN), with the keys `run, version, verdict, findings, not_run, data,
        images, exactness, effects, acceptance, selection, utility, losses, localisation, refused, stages, checkpoints,
        versions, config`. A part that was not made is None or empty.
    """
    utility = _utility(run)
    content = {
        "run": run.path.resolve().name,
        "version": __version__,
        "verdict": utility["metrics"]["auroc"][-1]["verdict"] if utility else "cannot tell",
        "findings": list(run.config.get("findings") or _findings(run)),
        "not_run": run.not_run,
        "data": _data(run),
        "images": _images(run),
        "exactness": _exactness(run),
        "effects": None if run.effects is None else effects_table(run.effects).to_dict("records"),
        "acceptance": acceptance(run),
        "selection": risen(run),
        "utility": utility,
        "losses": _losses(run),
        "localisation": _localisation(run),
        "refused": _refused(run),
        "stages": run.stages,
        "checkpoints": {p.name: sha256_file(p) for p in sorted((run.path / "checkpoints").glob("*.ckpt"))},
        "versions": {"cxrsynth": __version__, "python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "config": run.config,
    }
    return plain(content)


def plain(value: Any) -> Any:
    """The same content in types that JSON knows: NaN and infinities become None, NumPy scalars Python's."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _findings(run: RunFolder) -> list[str]:
    return sorted({record["finding"] for record in run.records or []})


def _data(run: RunFolder) -> dict[str, Any] | None:
    if run.manifest is None or run.splits is None:
        return None
    archive = Manifest.load(run.manifest).select(views=run.config.get("views"), sites=run.config.get("sites"))
    findings = list(run.config.get("findings") or archive.findings)
    targets = pd.DataFrame(archive.targets(archive.resolve(findings)).numpy() == 1, columns=findings)
    table = pd.DataFrame({"image_id": archive.table["image_id"], "No Finding": archive.healthy}).join(targets)
    table = table.merge(run.splits, on="image_id")
    rows = []
    for name in ("train", "val", "test"):
        part = table[table["split"] == name]
        counts = {finding: int(part[finding].sum()) for finding in ["No Finding", *findings]}
        rows.append({"split": name, "images": len(part), "patients": part["patient_id"].nunique(), "counts": counts})
    return {"archive": run.manifest.parent.name, "simulated": bool(run.config.get("phantom")), "splits": rows}


def _images(run: RunFolder) -> dict[str, Any] | None:
    if run.records is None:
        return None
    patients = {} if run.splits is None else dict(zip(run.splits["image_id"], run.splits["patient_id"], strict=True))
    made = pd.Series([record["finding"] for record in run.records], dtype=str).value_counts()
    return {
        "made": len(run.records),
        "by_finding": {str(name): int(count) for name, count in made.items()},
        "sources": len({record["source_id"] for record in run.records}),
        "source_patients": len({patients.get(record["source_id"], record["source_id"]) for record in run.records}),
    }


def _exactness(run: RunFolder) -> dict[str, Any] | None:
    if run.records is None or run.manifest is None:
        return None
    result = check_exactness(run.path, run.manifest.parent, run.records)
    shares = sorted(result.painted.values())
    painted = {"smallest": shares[0], "median": float(np.median(shares)), "largest": shares[-1]} if shares else None
    return {"images": result.images, "exact": result.exact, "offenders": result.offenders, "painted": painted}


def _utility(run: RunFolder) -> dict[str, Any] | None:
    if len(run.predictions) < 2 or run.records == []:  # with nothing painted both arms are the same
        return None
    real, synthetic = run.predictions["real"], run.predictions["synthetic"]
    return {
        "split": ", ".join(sorted(set(real["split"]))),
        "images": len(real),
        "patients": real["patient_id"].nunique(),
        "metrics": {name: compare(real, synthetic, name).to_dict("records") for name in METRICS},
    }


def _losses(run: RunFolder) -> dict[str, Any]:
    """Last losses and their gap, by classifier."""
    result = {}
    for arm, table in run.curves.items():
        train, val = (_last(table, f"{name}/loss") for name in ("train", "val"))
        result[arm] = {"train": train, "val": val, "gap": val - train, "steps": int(table["step"].max())}
    return result


def _last(table: pd.DataFrame, column: str) -> float:
    values = table[column].dropna().tolist() if column in table else []
    return float(values[-1]) if values else float("nan")


def _localisation(run: RunFolder) -> list[dict[str, Any]] | None:
    """See `localisation_table`; intervals as dictionaries."""
    table = run.localisation
    if table is None or table.empty:
        return None
    patients = {} if run.splits is None else dict(zip(run.splits["image_id"], run.splits["patient_id"], strict=True))
    rows = localisation_table(table, patients)
    for row in rows:
        row |= {measure: {method: vars(one) for method, one in row[measure].items()} for measure in MEASURES}
    return rows


def _refused(run: RunFolder) -> dict[str, Any] | None:
    if run.refused is None:
        return None
    kinds = run.refused["refused"].map(reason_kind).value_counts()
    return {"count": len(run.refused), "reasons": {str(kind): int(count) for kind, count in kinds.items()}}
