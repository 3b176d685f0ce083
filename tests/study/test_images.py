"""The images that arms make of a run: real lesions, painted controls, the phantom's own films, and the filter."""

import json
from dataclasses import replace

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxrsynth.attention.task import GLoRITask
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.phantom import write_phantom
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file
from cxrsynth.inpainting.guidance import HEALTHY_GUIDANCE
from cxrsynth.inpainting.task import InpaintingTask
from cxrsynth.study.arms import NoChange
from cxrsynth.study.images import copy_paste, inpaint_again, kept_by_scorer, no_finding, rendered
from cxrsynth.study.material import Material, open_images

FINDINGS = ["Effusion", "Nodule"]


def save(task: L.LightningModule, path) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    """A run with four synthetic films, one square region each, and untrained networks."""
    folder = tmp_path_factory.mktemp("made")
    archive = Manifest.load(write_phantom(folder / "phantom", count=8, size=64, seed=3))
    ids = archive.table.image_id.tolist()
    run = folder / "run"
    for name in ("images", "regions", "checkpoints"):
        (run / name).mkdir(parents=True)
    region = np.zeros((64, 64), np.uint8)
    region[30:44, 10:26] = 255
    records, rows = [], []
    for number in range(4):
        source = np.array(Image.open(archive.path(ids[number])))
        name, finding = f"syn{number}", FINDINGS[number % 2]
        Image.fromarray(np.where(region > 0, 200, source).astype(np.uint8)).save(run / "images" / f"{name}.png")
        Image.fromarray(region).save(run / "regions" / f"{name}.png")
        about = {"finding": finding, "condition": {"findings": [finding]}, "seed": number}
        painted = {"solver": "euler", "steps": 1, "warp": 2.0, "guidance": 3.0, "baseline": "none", "feather": 2.0}
        record = {"id": name, "image": f"images/{name}.png", "region": f"regions/{name}.png", "source_id": ids[number],
                  "exemplar_id": ids[number + 4], **about, **painted,
                  "image_sha256": sha256_file(run / "images" / f"{name}.png")}  # fmt: skip
        records.append(json.dumps(record))
        rows.append({"image_id": name, "path": record["image"], "labels": finding})
    (run / "provenance.jsonl").write_text("\n".join(records) + "\n")
    pd.DataFrame(rows).to_csv(run / "synthetic.csv", index=False)
    splits = pd.DataFrame({"image_id": ids, "patient_id": archive.table.patient_id, "split": "train"})
    splits.to_csv(run / "splits.csv", index=False)
    torch.manual_seed(0)
    task = InpaintingTask(FINDINGS, size=32, channels=[16, 16], attention=[False, True])
    with torch.no_grad():  # a fresh network paints nothing
        for weight in task.average.module.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    save(task, run / "checkpoints" / "inpainting.ckpt")
    vit = {"image_size": 64, "patch_size": 16, "dim": 32, "depth": 4, "num_heads": 2}
    queries = GLoRITask(FINDINGS, image_size=64, architecture=vit, dim=32, num_heads=2, ffn_hidden=32)
    save(queries, run / "checkpoints" / "attention.ckpt")
    return Material(
        folder / "study", folder / "phantom" / "metadata.csv", run / "splits.csv", FINDINGS, [run / "synthetic.csv"],
        run, 64, scorer=run / "checkpoints" / "attention.ckpt", phantom={"size": 64, "seed": 3, "severity": [0.5, 1.0]},
    )  # fmt: skip


def pixels(manifest: Manifest, image_id: str) -> np.ndarray:
    return np.array(Image.open(manifest.path(image_id))).astype(int)


@pytest.mark.parametrize("name", ["copy_paste", "no_change", "random_regions"])
def test_each_control_has_the_sources_of_the_run_and_changes_as_much(material, name):
    path = copy_paste(material) if name == "copy_paste" else inpaint_again(material, name)
    made = Manifest.load(path)
    assert made.table.source_id.tolist() == [record["source_id"] for record in material.records]
    expected = ["No Finding"] * 4 if name == "no_change" else [record["finding"] for record in material.records]
    assert made.table.labels.tolist() == expected
    region = np.zeros((64, 64), bool)
    region[30:44, 10:26] = True
    for image_id, record in zip(made.table.image_id, material.records, strict=True):
        changed = pixels(made, image_id) != pixels(material.archive, record["source_id"])
        assert 0 < changed.sum() <= region.sum()
        assert name == "random_regions" or not changed[~region].any()
    before = path.stat().st_mtime_ns
    assert (
        copy_paste(material) if name == "copy_paste" else inpaint_again(material, name)
    ).stat().st_mtime_ns == before


def test_the_healthy_control_has_no_finding_no_text_and_less_guidance(material):
    record = {
        **material.records[0],
        "condition": {"findings": ["Nodule"], "text": "A nodule.", "sex": "F", "age": 61.0},
    }
    healthy = no_finding(record)
    assert healthy["condition"] == {"findings": [], "sex": "F", "age": 61.0}
    assert healthy["guidance"] == HEALTHY_GUIDANCE < record["guidance"]
    assert str(HEALTHY_GUIDANCE) in NoChange.title
    assert {key for key in record if record[key] != healthy[key]} == {"condition", "guidance"}


def test_an_image_whose_record_says_too_little_is_not_painted_again(material):
    short = {key: value for key, value in material.records[0].items() if key != "feather"}
    poor = replace(material, folder=material.folder / "poor")
    vars(poor)["records"] = [short]
    with pytest.raises(UserError, match="lacks feather"):
        inpaint_again(poor, "no_change")


def test_a_pasted_lesion_is_the_exemplars(material):
    made = Manifest.load(copy_paste(material))
    image = pixels(made, made.table.image_id[0])[33:41, 13:23]
    source, exemplar = (pixels(material.archive, material.records[0][f"{kind}_id"]) for kind in ("source", "exemplar"))
    # its texture is not the source's: the source explains less of it than of itself
    assert np.corrcoef(image.ravel(), source[33:41, 13:23].ravel())[0, 1] < 0.98
    assert exemplar.shape == source.shape


def test_the_phantom_renders_as_many_films_of_other_patients(material):
    made = Manifest.load(rendered(material))
    assert made.table.labels.value_counts().to_dict() == {"Effusion": 2, "Nodule": 2}
    assert not set(made.table.patient_id) & set(material.archive.table.patient_id)
    assert pixels(made, made.table.image_id[0]).shape == (64, 64)


def test_the_filter_keeps_the_best_share_of_each_finding(material):
    kept = kept_by_scorer(material, 0)
    scores = pd.read_csv(material.folder / "images" / "scores_0.csv")
    assert len(kept) == 2
    for _, part in scores.groupby("finding"):
        assert part.loc[part["score"].idxmax(), "image_id"] in kept


def test_a_runs_own_selection_is_the_filter_where_there_is_one(material):
    run = material.run
    table = pd.read_csv(run / "synthetic.csv")
    table.to_csv(run / "synthetic_all.csv", index=False)
    table.iloc[:3].to_csv(run / "synthetic.csv", index=False)
    (run / "checkpoints" / "scorer.ckpt").write_bytes(b"any")
    own = replace(material, image_manifests=open_images(None, run), scorer=run / "checkpoints" / "scorer.ckpt")
    assert len(own.synthetic(0).table) == len(own.records) == 4
    assert kept_by_scorer(own, 0) == {"syn0", "syn1", "syn2"}


def test_what_is_there_says_which_arms_can_be_made(material):
    assert material.has() == {"images", "regions", "inpainter", "scorer", "phantom"}
    foreign = Material(
        material.folder, material.manifest_path, material.splits_path, FINDINGS, material.image_manifests
    )
    assert foreign.has() == {"images"}
