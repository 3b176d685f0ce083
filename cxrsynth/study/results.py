"""The statistics of a study, computed once, when every training is done. The test predictions are read here alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from cxrsynth import __version__
from cxrsynth.data import Manifest
from cxrsynth.errors import UserError
from cxrsynth.evaluation.delong import delong_test
from cxrsynth.evaluation.fairness import fairness_tables
from cxrsynth.evaluation.metrics import METRICS, Metric, finding_names
from cxrsynth.evaluation.operating import DECISIONS, decided, f1_thresholds, rescaled, temperature
from cxrsynth.evaluation.power import auroc_error, detectable_difference
from cxrsynth.evaluation.predictions import read_predictions, read_reference
from cxrsynth.evaluation.trainings import Between, Draws, between_trainings, metric_draws, shares, spreads
from cxrsynth.evaluation.trivial import accuracy_beside_trivial
from cxrsynth.report.summary import plain
from cxrsynth.study import about
from cxrsynth.study.arms import Arm
from cxrsynth.study.material import Material
from cxrsynth.study.quality import quality
from cxrsynth.study.verdict import judge, overall

ILL = "any disease"
FEWER = 4  # secondary measures take a quarter of the bootstrap draws
MEASURED: dict[str, tuple[Metric, str]] = {
    **{name: (METRICS[name], "") for name in ("auprc", "sensitivity_at_specificity_0.9", "brier", "ece")},
    **{f"{name}_rescaled": (METRICS[name], "rescaled") for name in ("brier", "ece")},
    **{name: (metric, "decided") for name, metric in DECISIONS.items()},
}
"""Measures beside AUROC, and which kind of the predictions they are of (`ArmTables.tables`)."""


class Trained(Protocol):
    """What is needed of a job (`cxrsynth.study.study.Job`)."""

    @property
    def arm(self) -> Arm:
        """The arm."""

    @property
    def material(self) -> Material:
        """What it is made of."""

    @property
    def folder(self) -> Path:
        """Where its record is."""

    @property
    def predictions(self) -> dict[str, Path]:
        """Prediction tables by what was judged."""


class ArmTables:
    """Predictions of one arm's trainings, with thresholds and temperatures from their own validation predictions."""

    def __init__(self, jobs: Sequence[Trained]) -> None:
        self.jobs = list(jobs)
        self.by_split = {
            split: [read_predictions(job.predictions[split]) for job in jobs] for split in jobs[0].predictions
        }
        self.thresholds = [f1_thresholds(table) for table in self.by_split["val"]]
        self.temperatures = [temperature(table) for table in self.by_split["val"]]

    def tables(self, split: str, kind: str = "") -> list[pd.DataFrame]:
        """Predictions as they are, or "decided" at the thresholds, or "rescaled" by the temperatures."""
        tables = self.by_split[split]
        if kind == "decided":
            return [decided(table, cut) for table, cut in zip(tables, self.thresholds, strict=True)]
        if kind == "rescaled":
            return [rescaled(table, by) for table, by in zip(tables, self.temperatures, strict=True)]
        return tables


def collect(
    config: dict[str, Any],
    names: dict[str, Arm],
    material: Material,
    jobs: Sequence[Trained],
    missing: dict[str, str],
    judge_checkpoint: Path | None,
    downstream: dict[str, Any],
) -> dict[str, Any]:
    """Every figure of the page, ready for JSON; `downstream` holds those of `segmentation` and `agreement`, or None."""
    draws, seed = config["draws"], config["seed"]
    arms = {name: ArmTables(_of(jobs, arm, None)) for name, arm in names.items() if name not in missing}
    findings = finding_names(arms["real"].tables("test")[0])
    areas = {name: metric_draws(arm.tables("test"), METRICS["auroc"], draws, seed) for name, arm in arms.items()}
    controls = {name: _validation_area(arm) for name, arm in arms.items() if names[name].control}
    strongest = max(controls, key=lambda name: controls[name])
    primary = config["primary"]
    between = between_trainings(list(areas.values()))
    judged = judge(
        spreads(areas[primary] - areas["real"], seed, between=between),
        spreads(areas[primary] - areas[strongest], seed, between=between),
        config["smallest_gain"],
    )
    pictures = quality(material, judge_checkpoint)
    memorised = any(copied["memorised"] for copied in pictures["memorisation"].values())
    content = {
        "title": Path(config["out"]).resolve().name,
        "version": __version__,
        "verdict": overall(judged[-1].verdict, memorised),
        "mean_verdict": judged[-1].verdict,
        "smallest_gain": config["smallest_gain"],
        "primary": primary,
        "strongest_control": strongest,
        "controls": controls,
        "findings": findings,
        "data": about.data(material, arms["real"].tables("test")[0], config),
        "verdicts": [
            {"finding": finding, **asdict(row), "present": _present(arms["real"], finding)}
            | _delong(arms, finding, primary, strongest)
            for finding, row in zip([*findings, "mean"], judged, strict=True)
        ],
        "power": _power(arms["real"], judged[:-1], findings),
        "trainings": _between(between),
        "arms": _arms(names, arms, areas, between, draws // FEWER, seed),
        "curves": _curves(names, jobs, draws // FEWER, seed, config["positives"]),
        "fairness": _fairness({n: arms[n] for n in ("real", strongest, primary)}, material, draws // FEWER, seed),
        "external": _external(arms, config["external"], primary, strongest, draws, seed),
        **pictures,
        **downstream,
        "reference": _reference(arms["real"], material, config["reference"], draws, seed),
        "not_tested": about.not_tested(missing, config, names, material, downstream),
        "shown": about.shown(material),
        "commands": about.commands(material),
        "config": config,
        "versions": about.versions(),
        "hashes": about.hashes(material),
    }
    return plain(content)


def _reference(real: ArmTables, material: Material, path: str | None, draws: int, seed: int) -> dict[str, Any] | None:
    """A published model beside training on real images alone, on the test images that its table covers."""
    if path is None:
        return None
    published = read_reference(path, material.findings)
    tables = [table[table["image_id"].isin(published.index)].reset_index(drop=True) for table in real.tables("test")]
    shared = [finding for finding in material.findings if f"{finding}_prob" in published]
    if not len(tables[0]) or not shared:
        raise UserError(f"reference {path} covers no test image or no finding of the study; leave it out")
    kept = ["image_id", "patient_id", "split", *(f"{f}_{kind}" for f in shared for kind in ("prob", "true"))]
    own = [table[kept] for table in tables]
    other = own[0].copy()
    columns = [f"{finding}_prob" for finding in shared]
    other[columns] = published.loc[other["image_id"], columns].to_numpy()
    areas = [metric_draws(part, METRICS["auroc"], draws, seed) for part in (own, [other] * len(own))]
    covered = material.archive.select(ids=set(published.index))
    whole = covered.table[["image_id", "patient_id"]].assign(split="all")
    whole[columns] = published.loc[whole["image_id"], columns].to_numpy()
    whole[[f"{finding}_true" for finding in shared]] = covered.targets(shared).numpy()
    return {
        "name": Path(path).name,
        "findings": shared,
        "images": len(other),
        "own": asdict(shares(areas[0], seed)[-1]),
        "published": asdict(shares(areas[1], seed)[-1]),
        "difference": asdict(spreads(areas[0] - areas[1], seed)[-1]),
        "whole": {"images": len(whole), "auroc": float(metric_draws([whole], METRICS["auroc"], 1).full[0, -1])},
    }


def _of(jobs: Sequence[Trained], arm: Arm, limit: int | None) -> list[Trained]:
    return [job for job in jobs if job.arm is arm and job.material.limit == limit]


def _validation_area(arm: ArmTables) -> float:
    """Mean validation AUROC: what the strongest control is chosen by, so that the test set is not."""
    return float(np.nanmean(metric_draws(arm.tables("val"), METRICS["auroc"], draws=1).full[:, -1]))


def _present(real: ArmTables, finding: str) -> int | None:
    return None if finding == "mean" else int((real.tables("test")[0][f"{finding}_true"] == 1).sum())


def _delong(arms: dict[str, ArmTables], finding: str, primary: str, strongest: str) -> dict[str, Any]:
    """DeLong's test of the trained networks, clustered by patient, beside the bootstrap over patients and trainings."""
    if finding == "mean":
        return {"delong_real": None, "delong_control": None}
    scores = {name: np.stack([t[f"{finding}_prob"] for t in arms[name].tables("test")]) for name in
              ("real", primary, strongest)}  # fmt: skip
    table = arms["real"].tables("test")[0]
    truth = table[f"{finding}_true"].to_numpy(np.float64)
    known = ~np.isnan(truth)
    patients = table["patient_id"][known].tolist()
    tested = {key: delong_test(truth[known], scores[name][:, known], scores[primary][:, known], patients) for key, name
              in (("delong_real", "real"), ("delong_control", strongest))}  # fmt: skip
    return {key: asdict(found) for key, found in tested.items()}


def _power(real: ArmTables, judged: Sequence[Any], findings: list[str]) -> list[dict[str, Any]]:
    """What the test set could have shown: 80 % power at the 5 % level, from the width of each interval."""
    table = real.tables("test")[0]
    areas = metric_draws(real.tables("test"), METRICS["auroc"], draws=1)
    rows = []
    for finding, row in zip(findings, judged, strict=True):
        truth = table[f"{finding}_true"]
        present, absent = int((truth == 1).sum()), int((truth == 0).sum())
        area = float(np.nanmean(areas.full[:, findings.index(finding)]))
        rows.append(
            {
                "finding": finding,
                "present": present,
                "absent": absent,
                "area": area,
                "error_of_area": auroc_error(area, present, absent),
                "detectable": detectable_difference((row.over_real.high - row.over_real.low) / (2 * 1.96)),
            }
        )
    return rows


def _between(between: Between | None) -> dict[str, Any] | None:
    """What the intervals hold of the spread between trainings; the last column is the mean of the findings."""
    if between is None:
        return None
    return {"deviation": float(np.sqrt(between.variance[-1])), "freedom": between.freedom,
            "unequal_p": float(between.unequal[-1])}  # fmt: skip


def _arms(
    names: dict[str, Arm],
    arms: dict[str, ArmTables],
    areas: dict[str, Draws],
    between: Between | None,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """All figures of every arm; of each measure the spread between trainings is pooled over the arms."""
    measured = {name: {"auroc": shares(area, seed, between=between)} for name, area in areas.items()}
    for measure, (metric, kind) in MEASURED.items():
        values = {name: metric_draws(arm.tables("test", kind), metric, draws, seed) for name, arm in arms.items()}
        pooled = between_trainings(list(values.values()))
        for name, value in values.items():
            measured[name][measure] = shares(value, seed, between=pooled)
    result = {}
    for name, tables in arms.items():
        gain = spreads(areas[name] - areas["real"], seed, between=None if name == "real" else between)[-1]
        result[name] = {
            "title": names[name].title,
            "control": names[name].control,
            "trainings": len(tables.jobs),
            "metrics": {measure: [asdict(s) for s in values] for measure, values in measured[name].items()},
            "gain": asdict(gain),
            **_trained(tables),
        }
    return result


def _trained(tables: ArmTables) -> dict[str, Any]:
    """Thresholds, accuracy, losses and cost of one arm's trainings."""
    beside = {split: [accuracy_beside_trivial(table) for table in tables.tables(split)] for split in ("val", "test")}
    records = [json.loads((job.folder / "record.json").read_text()) for job in tables.jobs]
    losses = [(r["figures"].get("train/loss"), r["figures"].get("val/loss")) for r in records]
    known = [(a, b) for a, b in losses if a is not None and b is not None]
    return {
        "temperature": float(np.mean(tables.temperatures)),
        "thresholds": {f: float(np.mean([cut[f] for cut in tables.thresholds])) for f in tables.thresholds[0]},
        "accuracy": {key: float(np.mean([row[key] for row in beside["test"]])) for key in beside["test"][0]},
        "train_loss": float(np.mean([a for a, _ in known])) if known else None,
        "val_loss": float(np.mean([b for _, b in known])) if known else None,
        "gap": float(np.mean([b - a for a, b in known])) if known else None,
        "val_prior_loss": beside["val"][0]["prior_loss"],
        "steps": [r["figures"].get("steps") for r in records],
        "seconds": sum(r["seconds"] for r in records),
    }


def _curves(
    names: dict[str, Arm], jobs: Sequence[Trained], draws: int, seed: int, positives: list[int] | None
) -> list[dict[str, Any]]:
    """Mean AUROC by the number of real positives of each finding."""
    rows = []
    for limit in (*(positives or ()), None):
        found = {name: of for name, arm in names.items() if positives and (of := _of(jobs, arm, limit))}
        values = {name: metric_draws([read_predictions(job.predictions["test"]) for job in of], METRICS["auroc"],
                                     draws, seed) for name, of in found.items()}  # fmt: skip
        between = between_trainings(list(values.values()))
        for name, value in values.items():
            last = shares(value, seed, between=between)[-1]
            rows.append({"positives": limit, "arm": name, "title": names[name].title, **asdict(last)})
    return rows


def _fairness(arms: dict[str, ArmTables], material: Material, draws: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    rows = material.archive.table.set_index("image_id")
    return fairness_tables(
        {name: (arm.tables("test"), arm.thresholds) for name, arm in arms.items()}, rows, draws, seed
    )


def _external(
    arms: dict[str, ArmTables], manifest: str | None, primary: str, strongest: str, draws: int, seed: int
) -> dict[str, Any] | None:
    """The same comparison on an archive that nothing was trained on; thresholds and choices are the internal ones.

    Beside the findings that the archive was read for: whether a film shows any disease, which most archives tell.
    """
    if manifest is None or "external" not in arms["real"].by_split:
        return None
    tables = {name: arms[name].tables("external") for name in dict.fromkeys(("real", strongest, primary))}
    labels = Manifest.load(manifest)
    known = dict(zip(labels.table["image_id"], labels.ill, strict=True))
    ill = {name: [ill_or_healthy(table, known) for table in of_arm] for name, of_arm in tables.items()}
    table = tables["real"][0]
    rows = []
    for kind, names in ((tables, [*finding_names(table), "mean"]), (ill, [ILL])):
        areas = {name: metric_draws(of_arm, METRICS["auroc"], draws, seed) for name, of_arm in kind.items()}
        between = between_trainings(list(areas.values()))
        for index, finding in enumerate(names):
            row: dict[str, Any] = {"finding": finding}
            row |= {name: asdict(shares(area, seed, between=between)[index]) for name, area in areas.items()}
            row["gain"] = asdict(spreads(areas[primary] - areas["real"], seed, between=between)[index])
            rows.append(row)
    return {"images": len(table), "patients": table["patient_id"].nunique(), "rows": rows}


def ill_or_healthy(table: pd.DataFrame, ill: dict[str, float]) -> pd.DataFrame:
    """A prediction table of one finding, `ILL`: that not every finding is absent, taken as independent.

    Args:
        table: A prediction table.
        ill: Of every image 1, 0 or NaN (see `Manifest.ill`).
    """
    absent = np.prod([1 - table[f"{finding}_prob"] for finding in finding_names(table)], axis=0)
    true = [ill[image_id] for image_id in table["image_id"]]
    return table[["image_id", "patient_id", "split"]].assign(**{f"{ILL}_prob": 1 - absent, f"{ILL}_true": true})
