"""What a study is about: data, commands, versions, hashes, and what was not tested."""

import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cxrsynth import __version__
from cxrsynth.files import sha256_file
from cxrsynth.report.summary import PACKAGES
from cxrsynth.study.arms import Arm
from cxrsynth.study.images import kept_by_scorer
from cxrsynth.study.material import Material


def versions() -> dict[str, str]:
    """Of the program, the language, the machine and the packages."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    known = {package: version(package) for package in PACKAGES}
    return {"cxrsynth": __version__, "python": platform.python_version(), "machine": machine, **known}


def data(material: Material, table: pd.DataFrame, config: dict[str, Any]) -> dict[str, Any]:
    """Images, patients and findings of each split; `table` is one training's test predictions."""
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


def not_tested(
    missing: dict[str, str],
    config: dict[str, Any],
    names: dict[str, Arm],
    material: Material,
    downstream: dict[str, Any],
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
    for part, title in (("segmentation", "A segmenter"), ("agreement", "Agreement of text and image")):
        if downstream[part] is None:
            notes.append(f"{title}: not asked for.")
        elif "why" in downstream[part]:
            notes.append(f"{title}: {downstream[part]['why']}.")
    notes.append("No radiologist read these images.")
    return notes


def shown(material: Material) -> dict[str, str | None]:
    """Where the page finds what its gallery shows, relative to the study's folder."""
    own = material.run if material.records else None
    files = {
        "run": own,
        "images": material.image_manifests[0] if material.image_manifests else None,
        "archive": material.manifest_path,
    }
    start = material.folder.resolve()
    return {name: None if path is None else os.path.relpath(path.resolve(), start) for name, path in files.items()}


def commands(material: Material) -> list[str]:
    """The commands that made the run and this page; the second also goes on where it was stopped."""
    file = None if material.run is None else material.run / "config.yaml"
    made = yaml.safe_load(file.read_text()) if file is not None and file.is_file() else {}
    first = [made["command"]] if made.get("command") else []
    typed = Path(sys.argv[0]).name in ("cxrsynth", "__main__.py")
    again = sys.argv[1:] if typed else ["study", "--config", str(material.folder / "config.yaml")]
    return [*first, shlex.join(["cxrsynth", *again])]


def hashes(material: Material) -> dict[str, str]:
    """SHA-256 of every table and checkpoint that the study rests on."""
    files = {"manifest": material.manifest_path, "splits": material.splits_path}
    files |= {f"images {number}": path for number, path in enumerate(material.image_manifests)}
    if material.run is not None:
        files |= {path.name: path for path in sorted((material.run / "checkpoints").glob("*.ckpt"))}
    return {name: sha256_file(path) for name, path in files.items() if path.is_file()}
