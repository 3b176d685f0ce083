"""The statistics of a study, computed once, when every training is done. The test predictions are read here alone."""

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from cxrsynth import __version__
from cxrsynth.evaluation.delong import delong_test
from cxrsynth.evaluation.fairness import fairness_table
from cxrsynth.evaluation.metrics import METRICS, finding_names
from cxrsynth.evaluation.operating import DECISIONS, decided, f1_thresholds, rescaled, temperature
from cxrsynth.evaluation.power import auroc_error, detectable_difference
from cxrsynth.evaluation.predictions import read_predictions
from cxrsynth.evaluation.trainings import Draws, Spread, metric_draws, shares, spreads
from cxrsynth.evaluation.trivial import accuracy_beside_trivial
from cxrsynth.files import sha256_file
from cxrsynth.report.summary import PACKAGES, plain
from cxrsynth.study.arms import Arm
from cxrsynth.study.images import kept_by_scorer
from cxrsynth.study.material import Material
from cxrsynth.study.quality import quality
from cxrsynth.study.verdict import judge, overall

FEWER = 4  # secondary measures take a quarter of the bootstrap draws


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
) -> dict[str, Any]:
    """Every figure of the page, ready for JSON."""
    draws, seed = config["draws"], config["seed"]
    arms = {name: ArmTables(_of(jobs, arm, None)) for name, arm in names.items() if name not in missing}
    findings = finding_names(arms["real"].tables("test")[0])
    areas = {name: metric_draws(arm.tables("test"), METRICS["auroc"], draws, seed) for name, arm in arms.items()}
    controls = {name: _validation_area(arm) for name, arm in arms.items() if names[name].control}
    strongest = max(controls, key=lambda name: controls[name])
    primary = config["primary"]
    judged = judge(
        spreads(areas[primary] - areas["real"], seed),
        spreads(areas[primary] - areas[strongest], seed),
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
        "data": _data(material, arms["real"], config),
        "verdicts": [
            {"finding": finding, **asdict(row), "present": _present(arms["real"], finding)}
            | _delong(arms, finding, primary, strongest)
            for finding, row in zip([*findings, "mean"], judged, strict=True)
        ],
        "power": _power(arms["real"], judged[:-1], findings),
        "arms": {
            name: _arm(names[name], arm, areas[name], areas["real"], draws // FEWER, seed) for name, arm in arms.items()
        },
        "curves": _curves(names, jobs, draws // FEWER, seed, config["positives"]),
        "fairness": {name: _fairness(arms[name], material, draws // FEWER, seed) for name in ("real", primary)},
        "external": _external(arms, primary, strongest, draws, seed),
        **pictures,
        "not_tested": _not_tested(missing, config, names, material),
        "command": shlex.join(["cxrsynth", *sys.argv[1:]]),
        "config": config,
        "versions": {"python": platform.python_version(), "cxrsynth": __version__, **{p: version(p) for p in PACKAGES}},
        "hashes": _hashes(material),
    }
    return plain(content)


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


def _arm(arm: Arm, tables: ArmTables, area: Draws, real: Draws, draws: int, seed: int) -> dict[str, Any]:
    """All figures of one arm."""
    measured: dict[str, list[Spread]] = {"auroc": shares(area, seed)}
    for name in ("auprc", "sensitivity_at_specificity_0.9", "brier", "ece"):
        measured[name] = shares(metric_draws(tables.tables("test"), METRICS[name], draws, seed), seed)
    for name in ("brier", "ece"):
        after = metric_draws(tables.tables("test", "rescaled"), METRICS[name], draws, seed)
        measured[f"{name}_rescaled"] = shares(after, seed)
    for name, metric in DECISIONS.items():
        measured[name] = shares(metric_draws(tables.tables("test", "decided"), metric, draws, seed), seed)
    beside = [accuracy_beside_trivial(table) for table in tables.tables("test")]
    records = [json.loads((job.folder / "record.json").read_text()) for job in tables.jobs]
    losses = [(r["figures"].get("train/loss"), r["figures"].get("val/loss")) for r in records]
    known = [(a, b) for a, b in losses if a is not None and b is not None]
    return {
        "title": arm.title,
        "control": arm.control,
        "trainings": len(tables.jobs),
        "metrics": {name: [asdict(s) for s in values] for name, values in measured.items()},
        "gain": asdict(spreads(area - real, seed)[-1]),
        "temperature": float(np.mean(tables.temperatures)),
        "thresholds": {f: float(np.mean([cut[f] for cut in tables.thresholds])) for f in tables.thresholds[0]},
        "accuracy": {key: float(np.mean([row[key] for row in beside])) for key in beside[0]},
        "train_loss": float(np.mean([a for a, _ in known])) if known else None,
        "val_loss": float(np.mean([b for _, b in known])) if known else None,
        "steps": [r["figures"].get("steps") for r in records],
        "seconds": sum(r["seconds"] for r in records),
    }


def _curves(
    names: dict[str, Arm], jobs: Sequence[Trained], draws: int, seed: int, positives: list[int] | None
) -> list[dict[str, Any]]:
    """Mean AUROC by the number of real positives of each finding."""
    rows = []
    for limit in (*(positives or ()), None):
        for name, arm in names.items():
            if positives and (of := _of(jobs, arm, limit)):
                tables = [read_predictions(job.predictions["test"]) for job in of]
                value = shares(metric_draws(tables, METRICS["auroc"], draws, seed), seed)[-1]
                rows.append({"positives": limit, "arm": name, "title": arm.title, **asdict(value)})
    return rows


def _fairness(arm: ArmTables, material: Material, draws: int, seed: int) -> list[dict[str, Any]]:
    about = material.archive.table.set_index("image_id")
    return fairness_table(arm.tables("test"), arm.thresholds, about, draws, seed)


def _external(arms: dict[str, ArmTables], primary: str, strongest: str, draws: int, seed: int) -> dict[str, Any] | None:
    """The same comparison on an archive that nothing was trained on; thresholds and choices are the internal ones."""
    if "external" not in arms["real"].by_split:
        return None
    areas = {name: metric_draws(arms[name].tables("external"), METRICS["auroc"], draws, seed) for name in
             dict.fromkeys(("real", strongest, primary))}  # fmt: skip
    table = arms["real"].tables("external")[0]
    findings = finding_names(table)
    rows = []
    for index, finding in enumerate([*findings, "mean"]):
        row: dict[str, Any] = {"finding": finding}
        row |= {name: asdict(shares(area, seed)[index]) for name, area in areas.items()}
        row["gain"] = asdict(spreads(areas[primary] - areas["real"], seed)[index])
        rows.append(row)
    return {"images": len(table), "patients": table["patient_id"].nunique(), "rows": rows}


def _data(material: Material, real: ArmTables, config: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for split in ("train", "val", "test"):
        part = material.of(split)
        targets = part.targets(material.findings).numpy()
        counts = {f: int((targets[:, i] == 1).sum()) for i, f in enumerate(material.findings)}
        patients = material.splits.set_index("image_id").loc[part.table.image_id, "patient_id"].nunique()
        rows.append({"split": split, "images": len(part), "patients": int(patients),
                     "counts": {"No Finding": int(part.healthy.sum()), **counts}})  # fmt: skip
    made = [{"images": len(material.synthetic(k).table), "by_finding": material.asked(k)}
            for k in range(len(material.image_manifests))]  # fmt: skip
    table = real.tables("test")[0]
    return {
        "archive": material.manifest_path.parent.name,
        "simulated": material.phantom is not None,
        "splits": rows,
        "synthetic": made,
        "own_generator": bool(material.records),
        "judged_images": len(table),
        "judged_patients": int(table["patient_id"].nunique()),
        "kept_by_scorer": len(kept_by_scorer(material, 0)) if _filtered(config, material) else None,
    }


def _filtered(config: dict[str, Any], material: Material) -> bool:
    return "filtered" in config["arms"] and {"images", "scorer"} <= material.has()


def _not_tested(
    missing: dict[str, str], config: dict[str, Any], names: dict[str, Arm], material: Material
) -> list[str]:
    """What a reader might take for granted and was not done."""
    notes = [f"{names[name].title}: {why}" for name, why in missing.items()]
    if config["external"] is None:
        notes.append("No external archive: other hospitals, devices and label rules may give another result.")
    if len(material.image_manifests) < 2:
        notes.append("One training of the generator: how much the result depends on its seed is not known.")
    if config["seeds"] < 2:
        notes.append("One training of each classifier: the spread between trainings is not in the intervals.")
    if not any("@" in name for name in names):
        notes.append("One number of synthetic images; other ratios to the real ones were not tried.")
    if config["positives"]:
        notes.append("The generator saw every real positive, also where classifiers were given few of them.")
    else:
        notes.append("No few-shot curve: fewer real positives were not tried.")
    if material.phantom is not None:
        notes.append("The archive is simulated: nothing here says how real images would fare.")
    notes.append("No radiologist read these images, and agreement of text and image was not measured.")
    return notes


def _hashes(material: Material) -> dict[str, str]:
    files = {"manifest": material.manifest_path, "splits": material.splits_path}
    files |= {f"images {number}": path for number, path in enumerate(material.image_manifests)}
    if material.run is not None:
        files |= {path.name: path for path in sorted((material.run / "checkpoints").glob("*.ckpt"))}
    return {name: sha256_file(path) for name, path in files.items() if path.is_file()}
