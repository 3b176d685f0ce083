import hashlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrsynth.data import Manifest
from cxrsynth.data.split import SPLITS, make_splits, read_splits, write_splits
from cxrsynth.errors import UserError

# One patient split of the real images for everything that is reported about them: seed 0, fractions 0.7, 0.1, 0.2.
REAL_SPLIT_SHA256 = "17fb2d8c18e1eb3d16b51b7310cf81a638835d0a5858705f99c488bad8f1c85e"


def shares(table: pd.DataFrame, rows: np.ndarray | None = None) -> list[float]:
    split = table.split if rows is None else table.split[rows]
    return [float((split == name).mean()) for name in SPLITS]


def test_patients_stay_together_and_fractions_are_kept(patients):
    manifest = Manifest.load(patients)
    table = make_splits(manifest, [0.6, 0.2, 0.2])
    assert table.columns.tolist() == ["image_id", "patient_id", "split"]
    assert table.groupby("patient_id").split.nunique().max() == 1
    np.testing.assert_allclose(shares(table), [0.6, 0.2, 0.2], atol=0.04)


def test_rare_findings_are_shared_out(patients):
    manifest = Manifest.load(patients)
    for seed in range(5):
        table = make_splits(manifest, [0.6, 0.2, 0.2], seed)
        rare = table.image_id.map(dict(zip(manifest.table.image_id, manifest.targets(["A"])[:, 0] == 1, strict=True)))
        assert [int(((table.split == name) & rare).sum()) for name in SPLITS] == [6, 2, 2]


def test_seed_decides_and_row_order_does_not(patients):
    manifest = Manifest.load(patients)
    table = make_splits(manifest, seed=3)
    assert table.equals(make_splits(manifest, seed=3))
    assert not table.equals(make_splits(manifest, seed=4))
    mixed = pd.read_csv(patients).sample(frac=1, random_state=0)
    mixed.to_csv(patients, index=False)
    assert table.equals(make_splits(Manifest.load(patients), seed=3))


def test_a_given_split_is_honoured_and_the_rest_is_divided(patients):
    frame = pd.read_csv(patients)
    frame["split"] = np.where(frame.patient_id < "p10", "TEST", "")
    frame.to_csv(patients, index=False)
    table = make_splits(Manifest.load(patients), [0.7, 0.1, 0.2]).merge(frame[["image_id", "split"]], on="image_id")
    assert (table.split_x[table.split_y == "TEST"] == "test").all()
    rest = table.split_x[table.split_y == ""]
    assert set(rest) == {"train", "val"}
    assert (rest == "val").mean() == pytest.approx(0.125, abs=0.03)


def test_a_patient_in_two_splits_is_refused(patients, tmp_path):
    table = make_splits(Manifest.load(patients))
    table.loc[table.patient_id == "p03", "split"] = ["train", "test"]
    path = write_splits(table, tmp_path / "splits.csv")
    with pytest.raises(UserError, match="patient 'p03' in two splits"):
        read_splits(path)
    frame = pd.read_csv(patients).merge(table[["image_id", "split"]], on="image_id")
    frame.to_csv(patients, index=False)
    with pytest.raises(UserError, match="split column has patient 'p03' in two splits"):
        make_splits(Manifest.load(patients))


def test_write_and_read(patients, tmp_path):
    table = make_splits(Manifest.load(patients))
    path = write_splits(table, tmp_path / "splits.csv")
    assert read_splits(path).equals(table)
    with pytest.raises(UserError, match="cannot be read"):
        read_splits(tmp_path / "none.csv")
    path.write_text("image_id,split\na,train\n")
    with pytest.raises(UserError, match="lacks the column 'patient_id'"):
        read_splits(path)
    path.write_text("image_id,patient_id,split\na,p,practice\n")
    with pytest.raises(UserError, match="'practice' is unknown"):
        read_splits(path)
    with pytest.raises(UserError, match="add up to 1"):
        make_splits(Manifest.load(patients), [0.7, 0.1, 0.1])


def test_without_patient_ids_near_copies_stay_together(archive):
    path = archive([{"image_id": f"i{n:02d}", "labels": "No Finding"} for n in range(40)])
    rng = np.random.default_rng(0)
    for n in range(20):
        image = np.asarray(Image.open(path.parent / f"images/i{n:02d}.png"), float)
        noisy = (image * 0.9 + 8 + rng.normal(0, 2, image.shape)).clip(0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(path.parent / f"images/i{n + 20:02d}.png")
    split = make_splits(Manifest.load(path), [0.5, 0.25, 0.25]).set_index("image_id")
    for n in range(20):
        assert split.split[f"i{n:02d}"] == split.split[f"i{n + 20:02d}"]
    assert split.patient_id.nunique() == 20


def test_the_split_of_the_real_images_never_changes(shared, tmp_path):
    table = make_splits(Manifest.load(shared / "cxr" / "metadata.csv"), [0.7, 0.1, 0.2], seed=0)
    path = write_splits(table, tmp_path / "splits.csv")
    assert table.split.value_counts().to_dict() == {"train": 1295, "test": 376, "val": 179}
    assert hashlib.sha256(path.read_bytes()).hexdigest() == REAL_SPLIT_SHA256
