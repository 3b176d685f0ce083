import json

import numpy as np
import pandas as pd
import pytest

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.phantom import FINDINGS, write_phantom
from cxrsynth.data.reading import read_stored
from cxrsynth.evaluation import judges
from cxrsynth.evaluation.judges import score_effects


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of one phantom: the "result" is a film with an effusion under the name of a healthy one."""
    manifest = Manifest.load(write_phantom(tmp_path / "phantom", count=30, size=128, severity=(0.9, 1.0)))
    healthy = manifest.table["image_id"][manifest.healthy].iloc[0]
    sick = next(
        i for i, label in zip(manifest.table["image_id"], manifest.table["labels"], strict=True) if label == "Effusion"
    )
    read_stored(manifest.path(sick)).save_png(tmp_path / "images" / "syn00000.png")
    record = {"id": "syn00000", "image": "images/syn00000.png", "source_id": healthy, "finding": "Effusion"}
    (tmp_path / "provenance.jsonl").write_text(json.dumps(record) + "\n")

    def brightness(checkpoint, paths, size):
        return pd.DataFrame({"Effusion": [float(np.mean(read_stored(path).display())) for path in paths]})

    monkeypatch.setattr(judges, "score_files", brightness)
    return tmp_path, manifest, healthy


def test_source_and_result_are_scored_by_the_classifier_and_on_phantoms_by_the_oracle(run):
    folder, manifest, healthy = run
    rows = score_effects(folder, manifest, folder / "classification.ckpt", 96)
    assert set(rows["scorer"]) == {"classifier", "oracle"}
    assert set(rows.loc[rows["scorer"] == "oracle", "scored"]) >= set(FINDINGS)
    classifier = rows[rows["scorer"] == "classifier"].iloc[0]
    assert classifier["before"] == pytest.approx(float(read_stored(manifest.path(healthy)).display().mean()))
    assert classifier["source_patient"] == manifest.table["patient_id"][manifest.row(healthy)]
    oracle = rows[(rows["scorer"] == "oracle") & (rows["scored"] == "Effusion")].iloc[0]
    assert oracle["after"] > oracle["before"]


def test_a_real_archive_has_no_oracle(run):
    folder, manifest, _ = run
    real = Manifest.from_table(manifest.table.assign(site="hospital"), manifest.root)
    assert set(score_effects(folder, real, folder / "classification.ckpt", 96)["scorer"]) == {"classifier"}
