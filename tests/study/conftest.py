"""A plain archive whose findings a logistic regression of pixels learns, and that regression in the network's place."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

import cxrsynth.study.study as module
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_image
from cxrsynth.study.material import Material

SIDE = 16
PLACES = {"Effusion": (10, 3), "Nodule": (4, 10)}
IMAGES = 720


def picture(generator: np.random.Generator, findings: list[str]) -> np.ndarray:
    """Noise with a smooth background and, for each finding, a bright spot at its place."""
    image = 110 + 22 * generator.normal(size=(SIDE, SIDE)) + 12 * generator.normal()
    for finding in findings:
        row, column = PLACES[finding]
        image[row : row + 3, column : column + 3] += 20
    return image.clip(0, 255).astype(np.uint8)


def write_archive(folder: Path, seed: int = 0) -> Path:
    """Two thirds of the images are for validation and test; in training each finding is rare."""
    generator = np.random.default_rng(seed)
    rows = []
    (folder / "images").mkdir(parents=True)
    for number in range(IMAGES):
        split = ("train", "val", "test", "test")[number // 2 % 4]
        rare = 0.04 if split == "train" else 0.3
        findings = [name for name in PLACES if generator.random() < rare]
        name = f"film{number:04d}"
        Image.fromarray(picture(generator, findings)).save(folder / "images" / f"{name}.png")
        rows.append({"image_id": name, "path": f"images/{name}.png", "labels": "|".join(findings) or "No Finding",
                     "patient_id": f"p{number // 2}", "view": "PA", "sex": "FM"[number // 2 % 2],
                     "age": 30 + number % 50, "site": "here", "split": split})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return folder / "metadata.csv"


def write_images(folder: Path, images: list[tuple[np.ndarray, str]], patients: list[str] | None = None) -> Path:
    """A manifest of synthetic images, as another generator would give it; patients are the sources', where known."""
    folder.mkdir(parents=True)
    rows = []
    for number, (image, finding) in enumerate(images):
        Image.fromarray(image).save(folder / f"made{number:03d}.png")
        rows.append({"image_id": f"made{number:03d}", "path": f"made{number:03d}.png", "labels": finding})
    table = pd.DataFrame(rows)
    if patients is not None:
        table["patient_id"] = patients
    table.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> SimpleNamespace:
    """The plain archive and what tests do with it."""
    archive = write_archive(tmp_path_factory.mktemp("plain"))
    return SimpleNamespace(
        archive=archive, places=list(PLACES), side=SIDE, picture=picture, write_images=write_images, study=run_study
    )


@cache
def _read(path: Path) -> np.ndarray:
    return read_image(path)[0].numpy().ravel()


def _pixels(manifest: Manifest, ids: list[str]) -> np.ndarray:
    return np.stack([_read(manifest.path(image_id)) for image_id in ids])


def regression(job, recipe, fingerprint):
    """Stands in for the network: logistic regression of pixels, bootstrapped by the training's seed."""
    material: Material = job.material
    train = material.training
    if recipe.extra is not None:
        train = train + Manifest.load(recipe.extra)
    ids = [i for i in train.table.image_id for _ in range(recipe.copies.get(i, 1))]
    generator = np.random.default_rng([job.seed, 5])
    keep = generator.random(len(ids)) < 0.9
    ids = [i for i, kept in zip(ids, keep, strict=True) if kept]
    pixels, targets = _pixels(train, ids), train.targets(material.findings).numpy()
    row = {image_id: number for number, image_id in enumerate(train.table.image_id)}
    truth = targets[[row[i] for i in ids]]
    balanced = "balanced" if recipe.data.get("sampling") == "balanced" else None
    models = [LogisticRegression(C=0.3, class_weight=balanced).fit(pixels, column) for column in truth.T]
    tables = {}
    parts = {name: material.of(name) for name in ("val", "test")}
    if job.external is not None:
        parts["external"] = Manifest.load(job.external)
    for name, part in parts.items():
        ids = part.table.image_id.tolist()
        table = part.table[["image_id", "patient_id", "split"]].copy()
        shown = _pixels(part, ids)
        for index, finding in enumerate(material.findings):
            table[f"{finding}_prob"] = models[index].predict_proba(shown)[:, 1]
            table[f"{finding}_true"] = part.targets(material.findings).numpy()[:, index]
        tables[name] = table
    return tables, {"steps": 100, "train/loss": 0.2, "val/loss": 0.3}


@pytest.fixture
def simple_trainer(monkeypatch):
    """Trains by `regression` and counts the trainings."""
    trained = []

    def learn(job, recipe, fingerprint):
        trained.append((job.arm.name, job.seed))
        return regression(job, recipe, fingerprint)

    monkeypatch.setattr(module, "learn", learn)
    return trained


def run_study(archive: Path, images: Path, out: Path, **options) -> Path:
    """The study at its smallest; the two findings of the plain archive."""
    settings = {
        "arms": ["real", "duplicates", "oversampling", "synthetic"],
        "classification": {"model": {"network": "compact"}, "data": {"size": SIDE}, "trainer": {"max_steps": 1}},
        "manifest": str(archive),
        "splits": None,
        "findings": list(PLACES),
        "images": [str(images)],
        "draws": 400,
        "threads": 1,
    }
    return module.study(str(out), **{**settings, **options})
