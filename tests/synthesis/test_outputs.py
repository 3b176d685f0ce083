"""The tables beside the images, read by the program's own readers and by plain ones."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cxrsynth.data import CXRDataModule, Manifest
from cxrsynth.data.phantom import write_phantom
from cxrsynth.data.split import make_splits, write_splits
from cxrsynth.files import sha256_file
from cxrsynth.synthesis.outputs import write_outputs


def record(name: str, source: str, finding: str, **more) -> dict:
    paths = {kind: f"{kind}s/{name}.png" for kind in ("image", "region")}
    return {"id": name, **paths, "source_id": source, "exemplar_id": "e", "finding": finding, **more}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list[dict], Manifest]:
    """Three images with drawn regions; the second was refused by the selection."""
    folder = tmp_path_factory.mktemp("run")
    manifest = Manifest.load(write_phantom(folder / "phantom", count=20, size=64, seed=3))
    splits = make_splits(manifest)
    write_splits(splits, folder / "splits.csv")
    sources = splits.image_id[splits.split == "train"].tolist()[:3]
    records = [
        record("syn0", sources[0], "Effusion", scores={"gain": 0.5}, condition={"findings": ["Effusion"]}),
        record("syn1", sources[1], "Nodule", accepted=False, scores={"gain": -0.1}),
        record("syn2", sources[2], "Effusion|Nodule", accepted=True),
    ]
    for index, each in enumerate(records):
        region = np.zeros((64, 64), np.uint8)
        region[5 + index : 15, 8:20] = 255
        if index == 2:
            region[30:40, 30:33] = 255
        for kind in ("image", "region"):
            (folder / f"{kind}s").mkdir(exist_ok=True)
            Image.fromarray(region).save(folder / each[kind])
    write_outputs(folder, records, manifest.table)
    return folder, records, manifest


def test_accepted_and_all_images_are_manifests_of_their_own(run):
    folder, _, manifest = run
    assert pd.read_csv(folder / "synthetic.csv")["image_id"].tolist() == ["syn0", "syn2"]
    every = Manifest.load(folder / "synthetic_all.csv")
    assert every.table["image_id"].tolist() == ["syn0", "syn1", "syn2"]
    source = manifest.table.set_index("image_id").loc[every.table["source_id"][0]]
    assert every.table["patient_id"][0] == source["patient_id"]


def test_the_datamodule_takes_regions_for_maps(run):
    folder, _, _ = run
    data = CXRDataModule(
        str(folder / "phantom" / "metadata.csv"),
        size=64,
        findings=["Effusion", "Nodule"],
        batch_size=4,
        splits=str(folder / "splits.csv"),
        extra_manifest=str(folder / "synthetic.csv"),
        maps="masks",
    )
    data.setup("fit")
    areas = {}
    for batch in data.train_dataloader():
        for name, map, finding in zip(batch["image_id"], batch["map"], batch["finding"], strict=True):
            areas[name] = (int(map.sum()), int(finding))
    assert areas["syn0"] == (10 * 12, 0)
    assert areas["syn2"][0] == 8 * 12 + 30


def test_boxes_hold_each_part_of_each_region(run):
    folder, _, _ = run
    boxes = pd.read_csv(folder / "boxes.csv")
    assert boxes.query("image_id == 'syn0'").values.tolist() == [["syn0", "Effusion", 8, 5, 20, 15]]
    assert sorted(boxes.query("image_id == 'syn2'")["label"]) == ["Effusion", "Effusion", "Nodule", "Nodule"]


def test_coco_counts_its_pixels(run):
    folder, _, _ = run
    coco = json.loads((folder / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["images/syn0.png", "images/syn2.png"]
    assert {c["id"]: c["name"] for c in coco["categories"]} == {1: "Effusion", 2: "Nodule"}
    first = coco["annotations"][0]
    assert (first["image_id"], first["category_id"], first["bbox"], first["area"]) == (1, 1, [8, 5, 12, 10], 120)
    assert sum(first["segmentation"]["counts"]) == 64 * 64
    assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"]) == 5


def test_yolo_lists_accepted_images_and_their_labels(run):
    folder, _, _ = run
    assert (folder / "yolo.txt").read_text() == "./images/syn0.png\n./images/syn2.png\n"
    assert sorted(p.name for p in (folder / "labels").iterdir()) == ["syn0.txt", "syn2.txt"]
    names = yaml.safe_load((folder / "yolo.yaml").read_text())["names"]
    category, x, y, width, height = (folder / "labels" / "syn0.txt").read_text().split()
    assert names[int(category)] == "Effusion"
    assert [float(v) * 64 for v in (x, y, width, height)] == pytest.approx([14, 10, 12, 10], abs=1e-3)


def test_the_parquet_table_holds_what_the_json_lines_hold(run):
    folder, _, _ = run
    table = pd.read_parquet(folder / "provenance.parquet").set_index("id")
    assert table.loc["syn0", "scores.gain"] == 0.5
    assert json.loads(table.loc["syn0", "condition.findings"]) == ["Effusion"]


def test_written_again_the_files_are_the_same(run):
    folder, records, manifest = run
    files = {p: sha256_file(p) for p in folder.rglob("*") if p.is_file()}
    (folder / "labels" / "syn9.txt").write_text("0 0 0 0 0\n")  # of an image that is no longer accepted
    write_outputs(folder, records, manifest.table)
    assert {p: sha256_file(p) for p in folder.rglob("*") if p.is_file()} == files


def test_a_synthesis_without_images_leaves_empty_tables(run, tmp_path):
    write_outputs(tmp_path, [], run[2].table)
    assert len(pd.read_csv(tmp_path / "synthetic.csv")) == 0
    assert json.loads((tmp_path / "coco.json").read_text())["annotations"] == []
