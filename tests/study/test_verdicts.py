"""Rigged generators, given as any other's images: what they make must not be called a help; what is right must be."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrsynth.study.results import ILL, ill_or_healthy

COUNT = 120


def training_rows(plain) -> pd.DataFrame:
    table = pd.read_csv(plain.archive)
    return table[table["split"] == "train"].reset_index(drop=True)


def pixels(plain, row: int) -> np.ndarray:
    return np.array(Image.open(plain.archive.parent / training_rows(plain)["path"].iloc[row]))


def healthy(plain) -> pd.DataFrame:
    """The healthy training films that a painter would take."""
    rows = training_rows(plain)
    rows = rows[rows["labels"] == "No Finding"]
    return rows.iloc[np.arange(COUNT) % len(rows)]


def sources(plain) -> list[np.ndarray]:
    """Healthy films with nothing painted into them."""
    return [np.array(Image.open(plain.archive.parent / path)) for path in healthy(plain)["path"]]


def noise(plain) -> list[np.ndarray]:
    return list(np.random.default_rng(2).integers(0, 256, (COUNT, plain.side, plain.side)).astype(np.uint8))


def copies(plain) -> list[np.ndarray]:
    """Training films that have the asked finding, a little brighter."""
    labels = training_rows(plain)["labels"]
    having = [np.flatnonzero(labels.str.contains(name)) for name in plain.places]
    chosen = [having[n % 2][n // 2 % len(having[n % 2])] for n in range(COUNT)]
    return [(pixels(plain, row) * 0.98 + 3).astype(np.uint8) for row in chosen]


def true_images(plain) -> list[np.ndarray]:
    """Films of new patients from where the archive came from."""
    generator = np.random.default_rng(3)
    return [plain.picture(generator, [plain.places[n % 2]]) for n in range(COUNT)]


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory) -> Path:
    """One study folder: arms without synthetic images are trained once."""
    return tmp_path_factory.mktemp("study") / "out"


@pytest.mark.parametrize(
    ("generator", "expected"),
    [(sources, {"did not help"}), (noise, {"did not help"}),
     (copies, {"memorised", "did not help"}), (true_images, {"helped"})],
)  # fmt: skip
def test_rigged_generators(generator, expected, plain, simple_trainer, tmp_path, shared_out):
    made = [(image, plain.places[number % 2]) for number, image in enumerate(generator(plain))]
    owners = healthy(plain)["patient_id"].tolist() if generator is sources else None
    plain.study(plain.archive, plain.write_images(tmp_path / "made", made, owners), shared_out)
    found = json.loads((shared_out / "report.json").read_text())
    assert found["verdict"] in expected, found["headline"]
    assert found["memorisation"]["whole images"]["memorised"] == (generator is copies)


def test_any_disease_is_that_not_every_finding_is_absent():
    table = pd.DataFrame({"image_id": ["a", "b"], "patient_id": ["p", "q"], "split": "external",
                          "Effusion_prob": [0.5, 0.1], "Effusion_true": [np.nan, 0.0],
                          "Nodule_prob": [0.2, 0.0], "Nodule_true": [np.nan, 0.0]})  # fmt: skip
    ill = ill_or_healthy(table, {"a": 1.0, "b": 0.0})
    assert ill[f"{ILL}_prob"].tolist() == pytest.approx([0.6, 0.1])
    assert ill[f"{ILL}_true"].tolist() == [1, 0]
