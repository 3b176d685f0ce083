"""A segmenter and a model of texts on tiny data: what they measure, and that nothing is trained twice."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import cxrsynth.study.agreement as module
from cxrsynth.data.manifest import Manifest
from cxrsynth.errors import UserError
from cxrsynth.evaluation.predictions import read_reference
from cxrsynth.study.agreement import AgreementSettings, ImageText, agreement, nearest, train
from cxrsynth.study.arms import ARMS
from cxrsynth.study.material import Material
from cxrsynth.study.segmentation import Marked, SegmentationSettings, marked, measure, segmentation
from cxrsynth.study.study import _settings

SIDE = 32
FINDINGS = ["Effusion", "Nodule"]
PLACES = {"Effusion": (20, 4), "Nodule": (6, 18)}


def film(generator: np.random.Generator, finding: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Noise, with a bright square near the finding's place."""
    image, mask = 60 + 12 * generator.normal(size=(SIDE, SIDE)), np.zeros((SIDE, SIDE), bool)
    if finding is not None:
        row, column = np.array(PLACES[finding]) + generator.integers(-3, 4, 2)
        mask[row : row + 8, column : column + 8] = True
    return (image + 90 * mask).clip(0, 255).astype(np.uint8), mask


def write(folder, findings: list[str | None], prefix: str, seed: int) -> None:
    """An archive with masks; images of synthetic ones are named by the prefix."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows, masks = [], []
    for number, finding in enumerate(findings):
        name = f"{prefix}{number:03d}"
        image, mask = film(generator, finding)
        Image.fromarray(image).save(folder / f"{name}.png")
        rows.append({"image_id": name, "path": f"{name}.png", "labels": finding or "No Finding", "patient_id": name})
        if finding:
            Image.fromarray(mask).save(folder / f"{name}_mask.png")
            masks.append({"image_id": name, "path": f"{name}_mask.png", "structure": finding})
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    pd.DataFrame(masks).to_csv(folder / "masks.csv", index=False)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    folder = tmp_path_factory.mktemp("downstream")
    kinds: list[str | None] = [None, None, *FINDINGS]
    write(folder / "archive", kinds * 24, "film", 0)
    write(folder / "made", FINDINGS * 15, "made", 1)
    table = pd.read_csv(folder / "archive" / "metadata.csv")
    table["split"] = np.where(np.arange(len(table)) < 48, "train", "test")
    table[["image_id", "patient_id", "split"]].to_csv(folder / "splits.csv", index=False)
    return Material(folder / "out", folder / "archive" / "metadata.csv", folder / "splits.csv", FINDINGS,
                    [folder / "made" / "metadata.csv"], size=SIDE)  # fmt: skip


class Fixed(torch.nn.Module):
    """Calls the same pixels everywhere."""

    def __init__(self, called: torch.Tensor) -> None:
        super().__init__()
        self.called = called

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (self.called.float() - 0.5).expand(len(image), -1, -1, -1)


def test_dice_is_that_of_marked_lesions_and_what_is_unknown_is_left_out():
    called = torch.zeros(2, 4, 4, dtype=torch.bool)
    called[0, :2] = True  # eight pixels of the first finding, none of the second
    masks = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    masks[0, 0, 1:3] = True  # eight pixels, four of them called
    known = torch.tensor([[True, True], [True, False]])
    found = measure(Fixed(called), Marked(["a", "b"], ["p", "q"], torch.zeros(2, 1, 4, 4), masks, known), FINDINGS)
    rows = found.set_index(["image_id", "finding"])
    assert rows.loc[("a", "Effusion"), "dice"] == pytest.approx(2 * 4 / (8 + 8))
    assert rows.loc[("a", "Nodule"), "painted"] == 0
    assert rows.loc[("b", "Effusion"), "painted"] == 1
    assert len(rows) == 3


def test_segmenters_learn_go_on_and_are_compared(material):
    settings = SegmentationSettings(SIDE, steps=60, batch_size=8, channels=[8, 16], lr=0.01, augment=0.0, seeds=2)
    said: list[str] = []
    arms = {name: ARMS[name]() for name in ("real", "synthetic")}
    found = segmentation(material, arms, "synthetic", settings, draws=60, say=said.append)
    assert [row["finding"] for row in found["rows"]] == [*FINDINGS, "mean"]
    assert found["rows"][0]["lesions"] == 12
    assert found["rows"][-1]["real"]["estimate"] > 0.5  # a constant call of everything scores about 0.12
    gain = found["rows"][-1]["gain"]
    assert gain["low"] <= gain["estimate"] <= gain["high"]
    assert said[0].endswith("trained on 48 images")
    assert said[2].endswith("trained on 78 images")
    again = segmentation(material, arms, "synthetic", settings, draws=60, say=said.append)
    assert again == found
    assert all(text.endswith("done before") for text in said[4:])
    lost = material.folder / "segmentation" / "real" / "seed1.csv"
    lost.write_text(lost.read_text().replace("0.", "0.9", 1))
    assert segmentation(material, arms, "synthetic", settings, draws=60, say=said.append) == found
    assert [text.split(":")[1][1:6] for text in said[8:]] == ["done ", "train", "done ", "done "]


def test_a_synthetic_lesion_is_where_its_region_is(material):
    images = material.training + Manifest.load(material.image_manifests[0])
    data = marked(images, FINDINGS, SIDE)
    assert data.present.sum(0).tolist() == [12 + 15, 12 + 15]
    first = data.ids.index("made000")
    assert data.images[first, 0][data.masks[first, 0]].mean() > data.images[first, 0].mean() + 0.2


def test_without_marks_there_is_no_segmenter_but_a_reason(material):
    few = replace(material, findings=["Hernia", "Edema"])
    found = segmentation(few, {}, "synthetic", SegmentationSettings(), draws=10)
    assert "most: 0" in found["why"]


def test_texts_are_found_in_real_images_and_shuffled_ones_are_not(material, monkeypatch):
    settings = AgreementSettings(size=SIDE, steps=50, batch_size=16, width=16, vocabulary=300, lr=4e-3, augment=0.0)
    monkeypatch.setattr(module, "train", lambda *given: models.append(train(*given)) or models[0])
    models: list[ImageText] = []
    said: list[str] = []
    found = agreement(material, settings, draws=60, say=said.append)
    rows = {row["kind"]: row for row in found["rows"]}
    assert found["chance"] == pytest.approx(1 / 3)
    assert rows["real test images"]["images"] == 24
    assert rows["real test images"]["estimate"] > 0.8
    assert rows["synthetic images"]["estimate"] > 0.8
    floor = rows["synthetic images, texts shuffled"]
    assert floor["estimate"] == pytest.approx(0.5, abs=0.15)  # two findings, each nearest for half of the images
    assert floor["high"] < rows["synthetic images"]["low"]
    assert agreement(material, settings, draws=60, say=said.append) == found
    assert said[1].endswith("done before")
    assert len(models) == 1
    generator = np.random.default_rng(4)
    healthy = torch.stack([torch.from_numpy(film(generator, None)[0] / np.float32(255))[None] for _ in range(12)])
    assert nearest(models[0], healthy, FINDINGS, 0).count("") >= 10


def test_settings_of_a_part_are_checked():
    assert _settings("agreement", None) is None
    assert _settings("segmentation", {}).steps == 300
    with pytest.raises(UserError, match="steps"):
        _settings("segmentation", {"step": 3})


def test_a_published_models_table_is_read_by_its_synonyms(tmp_path):
    file = tmp_path / "published.csv"
    file.write_text("image_id,prob_Pleural_Effusion,prob_Nodule,other\n007,0.25,0.5,1\n")
    table = read_reference(file, ["Effusion", "Nodule", "Mass"])
    assert table.loc["007", "Effusion_prob"] == 0.25
    assert "Mass_prob" not in table
    file.write_text(json.dumps({}))
    with pytest.raises(UserError, match="reference"):
        read_reference(file, ["Effusion"])
