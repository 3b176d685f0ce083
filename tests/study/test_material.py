"""What a study refuses, and what its arms are made of."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrsynth.errors import UserError
from cxrsynth.study.arms import ARMS, make_arm
from cxrsynth.study.images import moved_region
from cxrsynth.study.material import Material, refuse_leaks, refuse_same_judge


@pytest.fixture
def material(plain, tmp_path) -> Material:
    """The plain archive and eight synthetic films, six of them of the first finding."""
    table = pd.read_csv(plain.archive)
    table[["image_id", "patient_id", "split"]].to_csv(tmp_path / "splits.csv", index=False)
    generator = np.random.default_rng(0)
    made = [(plain.picture(generator, []), plain.places[int(number > 5)]) for number in range(8)]
    images = plain.write_images(tmp_path / "made", made)
    return Material(tmp_path / "out", plain.archive, tmp_path / "splits.csv", list(plain.places), [images])


def test_an_honest_study_is_let_through(material):
    refuse_leaks(material)


def test_a_patient_in_two_splits_is_refused(material):
    table = pd.read_csv(material.splits_path)
    table.loc[0, "split"] = "test"  # the patient's other film stays in training
    table.to_csv(material.splits_path, index=False)
    with pytest.raises(UserError, match="two splits"):
        refuse_leaks(material)


@pytest.mark.parametrize("how", ["name", "copy", "column"])
def test_a_synthetic_image_in_validation_or_test_is_refused(material, plain, tmp_path, how):
    held_out = material.of("test").table.image_id.iloc[0]
    table = pd.read_csv(material.image_manifests[0])
    if how == "name":
        table.loc[0, "image_id"] = held_out
    elif how == "copy":
        shutil.copy(material.archive.path(held_out), material.image_manifests[0].parent / table["path"].iloc[0])
    else:
        shutil.copytree(plain.archive.parent, tmp_path / "archive")
        marked = pd.read_csv(plain.archive)
        marked["source_id"] = np.where(marked["image_id"] == held_out, "film0000", "")
        marked.to_csv(tmp_path / "archive" / "metadata.csv", index=False)
        folder, splits, images = material.folder, material.splits_path, material.image_manifests
        material = Material(folder, tmp_path / "archive" / "metadata.csv", splits, material.findings, images)
    table.to_csv(material.image_manifests[0], index=False)
    with pytest.raises(UserError, match="in training only"):
        refuse_leaks(material)


def test_an_image_made_from_a_test_patient_is_refused(material):
    table = pd.read_csv(material.image_manifests[0])
    table["patient_id"] = material.of("test").table.patient_id.iloc[0]
    table.to_csv(material.image_manifests[0], index=False)
    with pytest.raises(UserError, match="only images that were made from training patients"):
        refuse_leaks(material)


def test_a_scorer_that_is_also_the_judge_is_refused(tmp_path):
    for name, content in (("a.ckpt", b"one"), ("b.ckpt", b"one"), ("c.ckpt", b"two")):
        (tmp_path / name).write_bytes(content)
    refuse_same_judge(tmp_path / "a.ckpt", tmp_path / "c.ckpt")
    refuse_same_judge(None, tmp_path / "a.ckpt")
    for judge in ("a.ckpt", "b.ckpt"):
        with pytest.raises(UserError, match="also the judge"):
            refuse_same_judge(tmp_path / "a.ckpt", tmp_path / judge)


def test_duplicates_are_as_many_and_of_the_same_findings(material):
    copies = ARMS["duplicates"]().recipe(material, 0).copies
    for finding, count in (("Effusion", 6), ("Nodule", 2)):
        only = [i for i in material.positives(finding)]
        assert sum(copies.get(i, 1) - 1 for i in only) >= count
    assert sum(count - 1 for count in copies.values()) == 8
    assert set(copies) <= set(material.training.table.image_id)


def test_fewer_positives_are_the_first_of_more(material):
    few, more = (set(material.limited(limit).positives("Effusion")) for limit in (1, 3))
    assert few < more
    assert (len(few), len(more)) == (1, 3)
    left = material.limited(1).left_out()
    assert set(left.values()) == {0}
    healthy = set(material.training.table.image_id[material.training.healthy])
    assert not healthy & set(left)


def test_arms_add_nothing_but_what_they_say(material):
    unmixed = ("real", "oversampling", "reweighted", "focal", "mixup")
    names = (*unmixed, "synthetic", "synthetic_only", "pretrain")
    recipes = {name: ARMS[name]().recipe(material, 0) for name in names}
    assert all(recipes[name].extra is None for name in unmixed)
    assert all(ARMS[name].control for name in ("duplicates", "oversampling", "reweighted", "focal", "mixup"))
    assert recipes["oversampling"].data == {"sampling": "balanced"}
    share = len(material.positives("Nodule")) / material.training_images
    assert recipes["reweighted"].model["pos_weight"][1] == pytest.approx(min(20, (1 - share) / share))
    assert recipes["synthetic"].extra == material.image_manifests[0]
    gone = {i for i, count in recipes["synthetic_only"].copies.items() if count == 0}
    assert gone == set(material.positives("Effusion")) | set(material.positives("Nodule"))
    before = recipes["pretrain"].before
    assert before is not None
    assert (before.extra, recipes["pretrain"].extra) == (material.image_manifests[0], None)


def test_a_ratio_counts_against_the_real_images(material):
    ratio = 4 / material.training_images
    recipe = make_arm(f"synthetic@{ratio}").recipe(material, 0)
    assert sorted(recipe.copies.values()) == [0] * 4
    with pytest.raises(UserError, match="make more"):
        make_arm("synthetic@3").recipe(material, 0)
    for name in ("syntetic", "real@2", "synthetic@x", "synthetic@0"):
        with pytest.raises(UserError, match="arm"):
            make_arm(name)


def test_a_moved_region_keeps_its_shape_and_stays_inside():
    region = np.zeros((20, 16), bool)
    region[2:6, 3:5] = True
    region[2, 3] = False
    places = set()
    for seed in range(30):
        moved = moved_region(region, seed)
        rows, columns = np.flatnonzero(moved.any(1)), np.flatnonzero(moved.any(0))
        assert np.array_equal(moved[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], region[2:6, 3:5])
        places.add((rows[0], columns[0]))
    assert len(places) > 15


def test_what_is_finished_is_not_trained_again(plain, simple_trainer, tmp_path, capsys):
    generator = np.random.default_rng(0)
    made = [(plain.picture(generator, [plain.places[n % 2]]), plain.places[n % 2]) for n in range(20)]
    images = plain.write_images(tmp_path / "made", made)
    options = {"arms": ["real", "duplicates", "synthetic"], "seeds": 2, "draws": 40}
    plain.study(plain.archive, images, tmp_path / "out", part="1/2", **options)
    assert len(simple_trainer) == 3
    page = plain.study(plain.archive, images, tmp_path / "out", **options)
    assert len(simple_trainer) == 6
    assert page.is_file()
    first = (tmp_path / "out" / "report.json").read_bytes()
    lost = tmp_path / "out" / "arms" / "all" / "synthetic" / "seed1" / "predictions_test.csv"
    lost.write_text(lost.read_text().replace("0.", "0.9", 1))  # a damaged file counts as lost
    plain.study(plain.archive, images, tmp_path / "out", **options)
    assert simple_trainer[6:] == [("synthetic", 1)]
    figures = [json.loads(content) for content in (first, (tmp_path / "out" / "report.json").read_bytes())]
    assert figures[0]["verdicts"] == figures[1]["verdicts"]
    Image.fromarray(plain.picture(generator, [])).save(images.parent / "made000.png")  # the table stays as it was
    plain.study(plain.archive, images, tmp_path / "out", **options)
    assert simple_trainer[7:] == [("synthetic", 0), ("synthetic", 1)]


def test_a_study_without_reference_or_control_is_refused(plain, tmp_path):
    for arms in (["duplicates", "synthetic"], ["real", "synthetic"], ["real", "duplicates"]):
        with pytest.raises(UserError, match="give real"):
            plain.study(plain.archive, tmp_path / "none.csv", tmp_path / "out", arms=arms)
    with pytest.raises(UserError, match="part"):
        plain.study(plain.archive, tmp_path / "none.csv", tmp_path / "out", part="3/2")
