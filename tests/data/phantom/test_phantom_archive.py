import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrsynth.data.phantom import FINDINGS, Exposure, Patient, render, simulate, write_phantom
from cxrsynth.errors import UserError

COUNT = 24


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom")
    write_phantom(out, count=COUNT, size=96, seed=5)
    return out


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_metadata_is_a_manifest(archive):
    table = pd.read_csv(archive / "metadata.csv")
    assert list(table.columns) == ["image_id", "path", "labels", "patient_id", "view", "sex", "age", "text", "site"]
    assert len(table) == COUNT
    assert set(table.view) <= {"PA", "AP"}
    assert set(table.sex) == {"F", "M"}
    assert table.age.between(20, 90).all()
    assert set("|".join(table.labels).split("|")) <= {*FINDINGS, "No Finding"}
    assert table.patient_id.nunique() < COUNT
    for patient in table.groupby("patient_id"):
        assert patient[1].sex.nunique() == patient[1].age.nunique() == 1


def test_same_arguments_give_the_same_bytes_and_an_interrupted_run_is_finished(archive, tmp_path):
    write_phantom(tmp_path, count=COUNT, size=96, seed=5)
    whole = digest(archive)
    assert digest(tmp_path) == whole
    for path in ("metadata.csv", "images/phantom_5_00003.png", "masks/phantom_5_00007_lungs.png"):
        (tmp_path / path).unlink()
    write_phantom(tmp_path, count=COUNT, size=96, seed=5)
    assert digest(tmp_path) == whole


def test_a_finished_archive_is_left_alone_and_another_is_refused(archive):
    before = {path: path.stat().st_mtime_ns for path in archive.rglob("*.png")}
    write_phantom(archive, count=COUNT, size=96, seed=5)
    assert {path: path.stat().st_mtime_ns for path in archive.rglob("*.png")} == before
    with pytest.raises(UserError, match="other settings"):
        write_phantom(archive, count=COUNT, size=96, seed=6)


def test_masks_and_boxes_agree_with_labels(archive):
    table = pd.read_csv(archive / "metadata.csv").set_index("image_id")
    masks, boxes = pd.read_csv(archive / "masks.csv"), pd.read_csv(archive / "boxes.csv")
    for image_id, row in table.iterrows():
        found = set(masks[masks.image_id == image_id].structure)
        labels = set() if row.labels == "No Finding" else set(row.labels.split("|"))
        assert found == labels | {"lungs", "heart"}
        assert set(boxes[boxes.image_id == image_id].label) == labels
    for row in boxes.itertuples():
        path = masks[(masks.image_id == row.image_id) & (masks.structure == row.label)].path.item()
        mask = np.asarray(Image.open(archive / path)) > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (row.x_min, row.y_min, row.x_max, row.y_max) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_report_names_what_is_there_and_denies_only_what_is_not(archive):
    words = {"Effusion": "effusion", "Pneumothorax": "pneumothorax", "Nodule": "nodule", "Atelectasis": "atelectasis"}
    for row in pd.read_csv(archive / "metadata.csv").itertuples():
        text = row.text.lower()
        for finding, word in words.items():
            if finding in row.labels:
                assert word in text
                assert f"no {word}" not in text
                assert f"without {word}" not in text


def test_sixteen_bits(tmp_path):
    write_phantom(tmp_path, count=1, size=64, seed=1, bits=16)
    image = Image.open(next((tmp_path / "images").glob("*.png")))
    assert np.asarray(image).max() > 255


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"size": 10}, {"healthy": 1.5}, {"bits": 12}, {"patients": 0}, {"patients": 9, "count": 3}]
)
def test_wrong_arguments_are_named(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        write_phantom(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_films_do_not_depend_on_their_order():
    first = simulate(7, 3, 64).image
    simulate(2, 3, 64)
    assert np.array_equal(simulate(7, 3, 64).image, first)


def test_size_changes_detail_but_not_anatomy():
    small, large = (render(Patient.draw(4), Exposure.draw(9), (), size) for size in (64, 256))
    shrunk = large.anatomy.heart.reshape(64, 4, 64, 4).mean((1, 3))
    assert np.abs(shrunk - small.anatomy.heart).mean() < 0.02
    film = large.image.reshape(64, 4, 64, 4).mean((1, 3))
    assert np.corrcoef(film.ravel(), small.image.ravel())[0, 1] > 0.97
