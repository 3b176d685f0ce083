"""The selection, with real films and results whose faults are known."""

import json
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch

from cxrsynth.attention.region import region_from_map
from cxrsynth.classification.task import ClassificationTask
from cxrsynth.data import CXRDataModule, Manifest
from cxrsynth.data.phantom import write_phantom
from cxrsynth.data.reading import read_stored, write_png
from cxrsynth.data.split import make_splits, write_splits
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file
from cxrsynth.synthesis.calibration import BEYOND, Limits, _other_tissue, calibrate
from cxrsynth.synthesis.provenance import gather, write_record
from cxrsynth.synthesis.scorer import check_independent, load_scorer
from cxrsynth.synthesis.selection import CHECKS, Selection, failures

FINDINGS = ["Effusion", "Nodule"]


def save_classifier(path: Path, manifest: Path, network: str, seed: int = 0, **data) -> Path:
    """An untrained classifier as a training would save it."""
    L.seed_everything(seed)
    task = ClassificationTask(FINDINGS, network)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer._data_connector.attach_datamodule(task, CXRDataModule(str(manifest), size=64, findings=FINDINGS, **data))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Manifest, list[dict]]:
    """Results that are a copy of their source, a training lesion pasted in, and noise."""
    folder = tmp_path_factory.mktemp("run")
    table = write_phantom(folder / "phantom", count=60, size=64, seed=2)
    manifest = Manifest.load(table)
    splits = make_splits(manifest)
    write_splits(splits, folder / "splits.csv")
    save_classifier(folder / "scorer.ckpt", table, "residual")
    training = set(splits.image_id[splits.split == "train"])
    boxes = manifest.boxes[manifest.boxes.image_id.isin(training) & manifest.boxes.label.isin(FINDINGS)]
    boxes = boxes.drop_duplicates(["image_id", "label"])
    maps = np.zeros((len(boxes), 64, 64), np.float16)
    for map, box in zip(maps, boxes.itertuples(), strict=True):
        map[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)] = 1
    np.savez(folder / "maps.npz", image_id=boxes.image_id.to_numpy(str), finding=boxes.label.to_numpy(str), map=maps)
    source_id = next(
        i for i, well in zip(manifest.table.image_id, manifest.healthy, strict=True) if well & (i in training)
    )
    patient = dict(zip(splits.image_id, splits.patient_id, strict=True))
    others = (b for b in boxes.itertuples() if patient[b.image_id] != patient[source_id])
    box = next(b for b in others if b.label == "Effusion")
    marked = torch.from_numpy(maps[boxes.index.get_loc(box.Index)].astype(np.float32))[None, None]
    y, x = region_from_map(marked)[0, 0].nonzero(as_tuple=True)
    rows, columns = slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1)
    source, ill = (read_stored(manifest.path(i)).stored for i in (source_id, box.image_id))
    region = np.zeros_like(source)
    region[rows, columns] = 255
    results = {name: source.copy() for name in ("copy", "lesion", "noise")}
    results["lesion"][rows, columns] = ill[rows, columns]
    noise = np.random.default_rng(0).integers(0, 256, source.shape)
    results["noise"][rows, columns] = noise[rows, columns]
    records = []
    for name, image in results.items():
        files = {kind: f"{kind}s/{name}.png" for kind in ("image", "region", "map")}
        record = {"id": name, **files, "finding": "Effusion"}
        write_png(folder / record["image"], image)
        write_png(folder / record["region"], region)
        record |= {f"{kind}_sha256": sha256_file(folder / record[kind]) for kind in ("image", "region")}
        path = str(manifest.table.path[manifest.row(source_id)])
        record |= {"source_id": source_id, "source_path": path, "exemplar_id": box.image_id}
        records.append(record)
        write_record(folder, record)
    return folder, manifest, records


def selection(folder: Path, **settings) -> Selection:
    paths = {"scorer": folder / "scorer.ckpt", "splits": folder / "splits.csv", "maps": folder / "maps.npz"}
    return Selection(**{name: str(path) for name, path in paths.items()}, **{"size": 64, "pairs": 10, **settings})


@pytest.fixture(scope="module")
def judged(run) -> dict[str, dict]:
    folder, manifest, records = run
    chosen = selection(folder)
    chosen.prepare(folder, manifest)
    chosen.judge(folder, records, manifest)
    return {r["id"]: json.loads((folder / "selection" / f"{r['id']}.json").read_text()) for r in records}


def test_a_copy_of_the_source_gains_nothing_and_has_no_other_fault(judged):
    scores = judged["copy"]["scores"]
    assert (scores["gain"], scores["drift"], scores["seam"], scores["lungs"]) == (0, 0, 1, 1)
    assert not judged["copy"]["accepted"]
    assert judged["copy"]["rejected"].startswith("gain: 0.000 is not above")


def test_a_pasted_training_lesion_is_called_a_duplicate_of_its_film(run, judged):
    assert judged["lesion"]["scores"]["duplicate"] > 0.97
    assert judged["lesion"]["scores"]["nearest_lesion"] == run[2][0]["exemplar_id"]
    assert "duplicate: " in judged["lesion"]["rejected"]
    assert judged["noise"]["scores"]["duplicate"] < 0.7


def test_noise_has_a_seam(judged):
    assert judged["noise"]["scores"]["seam"] > 3
    assert "seam: " in judged["noise"]["rejected"]


def test_verdicts_depend_on_nothing_but_the_image(run, judged, tmp_path):
    folder, manifest, records = run
    before = {path.name: path.read_bytes() for path in (folder / "selection").iterdir()}
    for path in (folder / "selection").iterdir():
        path.unlink()
    for record in reversed(records):  # as another rank would, alone and in another order
        selection(folder).judge(folder, [record], manifest)
    assert {path.name: path.read_bytes() for path in (folder / "selection").iterdir()} == before


def test_limits_and_verdicts_that_hold_are_kept_and_others_are_not(run, judged):
    folder, manifest, records = run
    files = [folder / "selection.json", *(folder / "selection").iterdir()]
    times = [path.stat().st_mtime_ns for path in files]
    chosen = selection(folder)
    chosen.prepare(folder, manifest)
    chosen.judge(folder, records, manifest)
    assert [path.stat().st_mtime_ns for path in files] == times
    verdict = folder / "selection" / "copy.json"
    chosen.judge(folder, [{**records[0], "image_sha256": "another"}], manifest)
    assert verdict.stat().st_mtime_ns not in times
    chosen.judge(folder, records, manifest)


def test_reason_and_score_of_a_refusal_stand_in_the_tables_and_in_the_record(run, judged):
    folder, _, records = run
    gather(folder, pd.DataFrame({"id": [r["id"] for r in records]}), selected=True)
    refused = pd.read_csv(folder / "refused.csv").set_index("id")
    assert refused.loc["copy", "check"] == "gain"
    assert refused.loc["copy", "score"] == 0
    assert (
        refused.loc["copy", "limit"]
        == json.loads((folder / "selection.json").read_text())["limits"]["gain"]["Effusion"]
    )
    scores = pd.read_csv(folder / "scores.csv").set_index("id")
    assert set(CHECKS) <= set(scores)
    lines = [json.loads(line) for line in (folder / "provenance.jsonl").read_text().splitlines()]
    assert {r["id"]: r["accepted"] for r in lines} == {name: bool(v) for name, v in scores["accepted"].items()}
    assert all(r["scores"] == judged[r["id"]]["scores"] for r in lines)


def test_limits_come_from_training_patients_alone(run, tmp_path):
    """Whatever the other patients' films show, the limits stay."""
    folder, manifest, _ = run
    splits = pd.read_csv(folder / "splits.csv")
    others = set(splits.image_id[splits.split != "train"])
    before = json.loads((folder / "selection.json").read_text())["limits"]
    kept = {}
    for name in others:
        path = manifest.path(name)
        kept[path] = path.read_bytes()
        write_png(path, np.full((64, 64), 255, np.uint8))
    try:
        selection(folder).prepare(tmp_path, manifest)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert json.loads((tmp_path / "selection.json").read_text())["limits"] == before


class Bright:
    """A scorer whose probability of every finding is the share of pixels beyond the film's usual brightness."""

    findings = FINDINGS

    def pair(self, source: torch.Tensor, result: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        share = [(image > source.quantile(0.9)).float().mean().expand(len(FINDINGS)) for image in (source, result)]
        return share[0], share[1]


def test_a_gain_must_be_above_that_of_other_healthy_tissue_not_of_ill_films(run):
    """Ill films need not be alike: what they gain over another patient's healthy film sets no limit."""
    folder, manifest, _ = run
    splits, maps = pd.read_csv(folder / "splits.csv", dtype=str), folder / "maps.npz"
    settings = {"size": 64, "quantile": 0.05, "pairs": 30, "seed": 0}
    found = [calibrate(manifest, splits, maps, Bright(), chance=chance, **settings).limits for chance in (0.05, 0.5)]
    assert all(limits.out_of_range >= BEYOND for limits in found)  # of lesions alone it may be 0: a pixel would refuse
    kept = [limits.gain for limits in found]
    assert all(0 <= kept[1][f] < kept[0][f] < 1 for f in FINDINGS)
    film, other = torch.rand(2, 1, 8, 8)
    region = torch.zeros(1, 8, 8, dtype=torch.bool)
    region[:, 2:5, 2:5] = True
    mixed = _other_tissue(film, other, region)
    assert torch.equal(mixed[~region], film[~region])
    assert not torch.equal(mixed[region], film[region])


class Lesions:
    """A scorer that sees what was put in: how much brighter it makes the film, as lesions here do."""

    findings = FINDINGS

    def pair(self, source: torch.Tensor, result: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        brighter = (result - source).sum() / (result != source).sum().clamp(min=1)
        return torch.full((len(FINDINGS),), 0.5), (0.5 + brighter.clamp(0, 0.4)).expand(len(FINDINGS))


class Blind(Lesions):
    """A scorer that sees nothing."""

    def pair(self, source: torch.Tensor, result: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(FINDINGS),), 0.5), torch.full((len(FINDINGS),), 0.5)


def test_it_is_told_how_many_real_lesions_would_pass_when_pasted(run):
    folder, manifest, _ = run
    splits, maps = pd.read_csv(folder / "splits.csv", dtype=str), folder / "maps.npz"
    settings = {"size": 64, "quantile": 0.05, "pairs": 30, "seed": 0, "chance": 0.05}
    seeing, blind = (
        calibrate(manifest, splits, maps, scorer(), **settings).real_lesions for scorer in (Lesions, Blind)
    )
    assert set(seeing) == set(blind) == set(FINDINGS)
    assert all(found["share"] == 0 for found in blind.values())
    assert all(0.5 < found["share"] <= 1 for found in seeing.values()), seeing
    assert all(0 < found["pairs"] <= 30 for found in seeing.values()), seeing


def test_limits_of_a_version_that_pasted_no_real_lesions_are_measured_again(run, judged):
    folder, manifest, _ = run
    path = folder / "selection.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name != "real_lesions"}))
    selection(folder).prepare(folder, manifest)
    assert json.loads(path.read_text()) == content


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"gain": 0.1}, "gain: 0.100 is not above 0.100"),
        ({"drift": 0.31}, "drift: 0.310 is above 0.300"),
        ({"lungs": 0.89}, "lungs: 0.890 is below 0.900"),
        ({"seam": 2.5}, "seam: 2.500 is above 2.000"),
        ({"out_of_range": 0.6}, "out_of_range: 0.600 is above 0.500"),
        ({"duplicate": 0.99}, "duplicate: 0.990 is above 0.950"),
    ],
)
def test_each_check_refuses_by_itself(change, reason):
    limits = Limits({"Effusion": 0.1}, {"Effusion": 0.3}, seam=2, out_of_range=0.5, lungs=0.9, duplicate=0.95)
    good = {"gain": 0.4, "drift": 0.1, "lungs": 0.99, "seam": 1.1, "out_of_range": 0.1, "duplicate": 0.7}
    assert failures({**good, **change}, limits, ["Effusion"]).get("rejected") == reason


def test_a_scorer_that_saw_a_synthetic_image_is_refused(run, tmp_path):
    table = run[0] / "phantom" / "metadata.csv"
    path = save_classifier(tmp_path / "seen.ckpt", table, "residual", extra_manifest="synthetic.csv")
    with pytest.raises(UserError, match=r"was trained on synthetic\.csv"):
        load_scorer(path)


def test_a_judge_cannot_be_the_scorer_nor_its_twin(run, tmp_path):
    table = run[0] / "phantom" / "metadata.csv"
    twin = save_classifier(tmp_path / "twin.ckpt", table, "residual", seed=7)
    judge = save_classifier(tmp_path / "judge.ckpt", table, "compact")
    with pytest.raises(UserError, match="same file"):
        check_independent(twin, twin)
    with pytest.raises(UserError, match="both residual"):
        check_independent(run[0] / "scorer.ckpt", twin)
    check_independent(run[0] / "scorer.ckpt", judge)


def test_a_file_that_is_no_classifier_is_refused_by_name(tmp_path):
    torch.save({"a": 1}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt"):
        load_scorer(tmp_path / "other.ckpt")


def test_a_finding_that_the_scorer_does_not_know_is_refused(run, judged):
    folder, manifest, records = run
    with pytest.raises(UserError, match="does not know 'Hernia'"):
        selection(folder).judge(folder, [{**records[0], "finding": "Hernia", "image_sha256": "x"}], manifest)
