"""A whole run folder, made by hand: the report is tested without training anything."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy.ndimage import gaussian_filter

from cxrsynth.data import Manifest, read_stored
from cxrsynth.data.phantom import write_phantom
from cxrsynth.files import sha256_file

FINDINGS = ["Effusion", "Consolidation", "Nodule", "Cardiomegaly"]
GAIN = {"Effusion": 0.5, "Consolidation": 0.35, "Nodule": 0.02, "Cardiomegaly": -0.1}


def make_run(folder: Path, films: int = 24, size: int = 64, made: int = 20) -> Path:
    """Write an archive and a run folder with every part that a report reads."""
    generator = np.random.default_rng(0)
    manifest = Manifest.load(write_phantom(folder / "phantom", count=films, size=size, seed=0))
    table = manifest.table
    run = folder / "runs" / "demo"
    for name in ("images", "regions", "maps", "stages", "study", "checkpoints"):
        (run / name).mkdir(parents=True)
    splits = table[["image_id", "patient_id"]].assign(split=np.resize(["train", "train", "test", "val"], films))
    splits.to_csv(run / "splits.csv", index=False)
    config = {"findings": FINDINGS, "manifest": "../../phantom/metadata.csv", "phantom": {"count": films}, "seed": 0}
    (run / "config.yaml").write_text(
        yaml.safe_dump(config | {"command": "cxrsynth run --config lightning_configs/quickstart.yaml"})
    )
    (run / "checkpoints" / "inpainting.ckpt").write_bytes(b"weights")
    _images(run, table, made, generator)
    _study(run, table, generator)
    for number, stage in enumerate(("encoder", "inpainting", "synthesis")):
        record = {
            "stage": stage,
            "fingerprint": "f" * 64,
            "seconds": 61.5 * (number + 1),
            "peak_memory_mib": 900 + number,
            "figures": {"steps": 600},
        }
        (run / "stages" / f"{stage}.json").write_text(json.dumps(record))
    return run


def _images(run: Path, table: pd.DataFrame, made: int, generator: np.random.Generator) -> None:
    """Images with a bright blob inside a round region."""
    records, effects = [], []
    for number in range(made):
        source = table.iloc[number % len(table)]
        path = Path(source["root"]) / source["path"]
        stored = read_stored(path)
        height, width = stored.stored.shape
        rows, columns = np.mgrid[0:height, 0:width] / height
        centre = generator.uniform(0.35, 0.65, 2)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        region = distance < generator.uniform(0.08, 0.18)
        painted = stored.display() + 0.3 * gaussian_filter(region.astype(float), height / 40)
        identity, finding = f"{number:04d}", FINDINGS[number % len(FINDINGS)]
        stored.paste(painted, region).save_png(run / "images" / f"{identity}.png")
        Image.fromarray(region.astype(np.uint8) * 255).save(run / "regions" / f"{identity}.png")
        Image.fromarray(np.uint8(255 * np.exp(-20 * distance**2))).save(run / "maps" / f"{identity}.png")
        records.append(
            {
                "id": identity,
                **{name: f"{name}s/{identity}.png" for name in ("image", "region", "map")},
                "source_id": source["image_id"],
                "source_path": source["path"],
                "exemplar_id": table["image_id"].iloc[-1],
                "finding": finding,
                "group": number // 8,
                "seed": number,
                "solver": "midpoint",
                "steps": 10,
                "guidance": 2.0,
                "image_sha256": sha256_file(run / "images" / f"{identity}.png"),
                "source_sha256": sha256_file(path),
                "checkpoints": {"inpainting": "0" * 64},
                "registration": {"ncc": 0.91, "min_jacobian": 0.4},
                "version": "0.1.0",
            }
        )
        for scorer, scale in (("oracle", 1.0), ("classifier", 0.6)):
            for scored in FINDINGS:
                before = float(generator.uniform(0, 0.2))
                gain = scale * GAIN[finding] if scored == finding else 0.0
                row = {"id": identity, "finding": finding, "source_patient": source["patient_id"], "scorer": scorer}
                effects.append(
                    {**row, "scored": scored, "before": before, "after": before + gain + generator.normal() * 0.04}
                )
    (run / "provenance.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pd.DataFrame(effects).to_csv(run / "study" / "effects.csv", index=False)
    reasons = [
        "the region covers 41 % of the image, more than 35 %",
        "the registration reaches 0.31, less than 0.5",
    ] * 2
    refused = pd.DataFrame({"refused": reasons}).assign(
        id=["9001", "9002", "9003", "9004"], source_id=table["image_id"].iloc[0], exemplar_id=table["image_id"].iloc[1]
    )
    refused.assign(finding="Nodule").to_csv(run / "refused.csv", index=False)


def _study(run: Path, table: pd.DataFrame, generator: np.random.Generator) -> None:
    images = 240
    truth = (generator.random((images, len(FINDINGS))) < 0.25).astype(float)
    noise = generator.normal(size=truth.shape)
    for arm, signal in (("real", np.array([0.8, 1.2, 0.3, 1.5])), ("synthetic", np.array([1.9, 1.3, 0.3, 0.9]))):
        probability = 1 / (1 + np.exp(1.2 - noise - signal * truth - 0.4 * generator.normal(size=truth.shape)))
        frame = {"image_id": [f"t{n}" for n in range(images)], "patient_id": [f"p{n // 2}" for n in range(images)]}
        frame["split"] = ["test"] * images
        for index, name in enumerate(FINDINGS):
            frame |= {f"{name}_prob": probability[:, index], f"{name}_true": truth[:, index]}
        pd.DataFrame(frame).to_csv(run / "study" / f"predictions_{arm}.csv", index=False)
        stage = "classification" if arm == "real" else "classification_synthetic"
        logs = run / "logs" / stage
        logs.mkdir(parents=True)
        rows = []
        for epoch in range(10):
            common = {"epoch": epoch, "step": 20 * (epoch + 1) - 1}
            rows.append({**common, "val/loss": 0.32 + 0.3 * np.exp(-epoch / 2) + 0.01 * generator.normal()})
            rows.append({**common, "train/loss": 0.25 + 0.4 * np.exp(-epoch / 3)})
        pd.DataFrame(rows).to_csv(logs / "metrics.csv", index=False)
    lesions = []
    for number in range(60):
        for method, hit, overlap in (("attention", 0.7, 0.3), ("average_map", 0.4, 0.2), ("centre", 0.1, 0.05)):
            row = {
                "image_id": table["image_id"].iloc[number % len(table)] + f"-{number}",
                "finding": FINDINGS[number % 4],
            }
            row |= {"method": method, "pointing": bool(generator.random() < hit), "area_share": 0.05}
            lesions.append({**row, "iou": float(np.clip(overlap + 0.1 * generator.normal(), 0, 1))})
    pd.DataFrame(lesions).to_csv(run / "study" / "localisation.csv", index=False)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A complete run folder; copy it before changing it."""
    return make_run(tmp_path_factory.mktemp("report"))
