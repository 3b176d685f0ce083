import numpy as np
import pandas as pd
import pytest

from cxrsynth.data.manifest import Manifest
from cxrsynth.errors import UserError
from cxrsynth.synthesis.plan import make_plan, read_plan, row_seed, write_plan

FINDINGS = ["Effusion", "Nodule"]


@pytest.fixture
def archive(tmp_path) -> tuple[Manifest, pd.DataFrame]:
    """40 healthy, 20 with effusion, 6 with a nodule, over two sites and two views; one patient an image."""
    rng = np.random.default_rng(0)
    labels = ["No Finding"] * 40 + ["Effusion"] * 20 + ["Nodule"] * 6
    table = pd.DataFrame(
        {
            "image_id": [f"i{n:02}" for n in range(66)],
            "path": [f"i{n:02}.png" for n in range(66)],
            "labels": labels,
            "patient_id": [f"p{n:02}" for n in range(66)],
            "site": ["A" if n % 2 else "B" for n in range(66)],
            "view": ["PA" if n % 4 < 2 else "AP" for n in range(66)],
        }
    )
    splits = table[["image_id", "patient_id"]].assign(split=rng.choice(["train", "test"], 66, p=[0.8, 0.2]))
    return Manifest.from_table(table, tmp_path), splits


def test_pairs_share_site_and_view_and_are_training_patients(archive):
    manifest, splits = archive
    plan = make_plan(manifest, splits, FINDINGS, count=30)
    table = manifest.table.set_index("image_id")
    source, exemplar = table.loc[plan["source_id"]], table.loc[plan["exemplar_id"]]
    assert (source["site"].to_numpy() == exemplar["site"].to_numpy()).all()
    assert (source["view"].to_numpy() == exemplar["view"].to_numpy()).all()
    assert (source["labels"] == "No Finding").all()
    assert all(f in labels.split("|") for f, labels in zip(plan["finding"], exemplar["labels"], strict=True))
    training = set(splits.loc[splits["split"] == "train", "image_id"])
    assert set(plan["source_id"]) | set(plan["exemplar_id"]) <= training


def test_the_rarest_finding_comes_first_and_counts_are_levelled(archive):
    manifest, splits = archive
    training = splits.loc[splits["split"] == "train", "image_id"]
    labels = manifest.table.set_index("image_id").loc[training, "labels"]
    effusions, nodules = (labels == "Effusion").sum(), (labels == "Nodule").sum()
    plan = make_plan(manifest, splits, FINDINGS, count=40)
    assert set(plan["finding"][: effusions - nodules]) == {"Nodule"}
    made = plan["finding"].value_counts()
    assert abs((effusions + made["Effusion"]) - (nodules + made["Nodule"])) <= 1


def test_sources_are_used_evenly_and_the_limit_holds(archive):
    manifest, splits = archive
    uses = make_plan(manifest, splits, FINDINGS, count=60, max_per_source=3)["source_id"].value_counts()
    assert uses.max() - uses.min() <= 1
    assert uses.max() <= 3


def test_the_plan_depends_on_the_seed_and_on_nothing_else(archive):
    manifest, splits = archive
    plan = make_plan(manifest, splits, FINDINGS, count=20, seed=3)
    order = np.random.default_rng(1).permutation(len(manifest))
    shuffled = Manifest.from_table(manifest.table.iloc[order], manifest.root)
    pd.testing.assert_frame_equal(plan, make_plan(shuffled, splits.iloc[order], FINDINGS, count=20, seed=3))
    assert not plan.equals(make_plan(manifest, splits, FINDINGS, count=20, seed=4))


def test_groups_and_seeds(archive):
    manifest, splits = archive
    plan = make_plan(manifest, splits, FINDINGS, count=11, group_size=4)
    assert plan["group"].tolist() == [0] * 4 + [1] * 4 + [2] * 3
    assert plan["seed"].tolist() == [row_seed(0, name) for name in plan["id"]]
    assert plan["seed"].is_unique
    assert plan["seed"].between(0, 2**63 - 1).all()


def test_a_finding_without_a_matching_exemplar_is_refused_by_name(archive):
    manifest, splits = archive
    table = manifest.table.assign(site=["C" if "Nodule" in x else "A" for x in manifest.table["labels"]])
    elsewhere = Manifest.from_table(table, manifest.root)
    with pytest.raises(UserError, match="finding 'Nodule'"):
        make_plan(elsewhere, splits, FINDINGS, count=4)
    assert set(make_plan(elsewhere, splits, FINDINGS, count=4, cross_site=True)["finding"]) == {"Nodule"}


def test_too_many_images_are_refused(archive):
    manifest, splits = archive
    with pytest.raises(UserError, match="count is 1000"):
        make_plan(manifest, splits, FINDINGS, count=1000)
    with pytest.raises(UserError, match="group_size is 0"):
        make_plan(manifest, splits, FINDINGS, count=10, group_size=0)


def test_a_plan_survives_its_file(archive, tmp_path):
    manifest, splits = archive
    plan = make_plan(manifest, splits, FINDINGS, count=9)
    pd.testing.assert_frame_equal(read_plan(write_plan(tmp_path / "plan.csv", plan)), plan, check_dtype=False)


@pytest.mark.parametrize(("text", "message"), [("id,group\na,0\n", "lacks the columns"), (None, "does not exist")])
def test_a_bad_plan_file_is_refused(tmp_path, text, message):
    if text:
        (tmp_path / "plan.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_plan(tmp_path / "plan.csv")
