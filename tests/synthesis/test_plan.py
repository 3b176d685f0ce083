import numpy as np
import pandas as pd
import pytest

from cxrsynth.data.manifest import Manifest
from cxrsynth.errors import UserError
from cxrsynth.synthesis.plan import check_training, make_plan, read_plan, row_seed, write_plan

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


def test_a_plan_survives_parquet_and_old_files(archive, tmp_path):
    manifest, splits = archive
    plan = make_plan(manifest, splits, FINDINGS, count=9)
    pd.testing.assert_frame_equal(read_plan(write_plan(tmp_path / "plan.parquet", plan)), plan, check_dtype=False)
    old = plan.drop(columns=["alternates", "findings"])
    read = read_plan(write_plan(tmp_path / "old.csv", old))
    assert (read["alternates"] == "").all()
    assert (read["findings"] == read["finding"]).all()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("seed", "many", "whole numbers"), ("group", "-1", "whole numbers"), ("id", "../x", "file names")],
)
def test_values_that_cannot_be_are_refused(archive, tmp_path, column, value, message):
    plan = make_plan(*archive, FINDINGS, count=3).astype(str)
    plan.loc[1, column] = value
    with pytest.raises(UserError, match=message):
        read_plan(write_plan(tmp_path / "plan.csv", plan))


def test_anyone_but_training_patients_is_refused(archive):
    manifest, splits = archive
    plan = make_plan(manifest, splits, FINDINGS, count=9, alternates=2)
    check_training(plan, splits)
    other = plan["alternates"][4].split("|")[-1]
    with pytest.raises(UserError, match=f"{other!r}.*no training image"):
        check_training(
            plan, splits.assign(split=["val" if i == other else s for i, s in splits[["image_id", "split"]].to_numpy()])
        )


def positives(plan: pd.DataFrame, archive, finding: str) -> int:
    """Real and planned."""
    manifest, splits = archive
    train = set(splits.loc[splits["split"] == "train", "image_id"])
    table = manifest.table[manifest.table["image_id"].isin(train)]
    return int((table["labels"] == finding).sum() + (plan["finding"] == finding).sum())


def test_targets_are_met(archive):
    manifest, splits = archive
    counted = make_plan(manifest, splits, FINDINGS, rule="count", targets={"Nodule": 7, "Effusion": 3})
    assert counted["finding"].value_counts().to_dict() == {"Nodule": 7, "Effusion": 3}
    until = make_plan(manifest, splits, FINDINGS, rule="until", targets={"*": 25})
    assert {positives(until, archive, f) for f in FINDINGS} == {25}
    assert set(make_plan(manifest, splits, FINDINGS, rule="until", targets={"Nodule": 9})["finding"]) == {"Nodule"}
    share = make_plan(manifest, splits, FINDINGS, rule="prevalence", targets={"*": 0.35})
    images = (splits["split"] == "train").sum() + len(share)
    for finding in FINDINGS:
        assert positives(share, archive, finding) / images == pytest.approx(0.35, abs=1 / images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "sometimes", "count": 3}, "rule is 'sometimes'"),
        ({"rule": "count", "targets": {"Mass": 1}}, "targets names 'Mass'"),
        ({"rule": "count", "count": 3}, "needs targets"),
        ({"rule": "count", "targets": {"Nodule": 1.5}}, "whole number"),
        ({"rule": "prevalence", "targets": {"*": 0.5}}, "less than 1"),
        ({"count": 3, "weights": {"height": 1.0}}, "weights names 'height'"),
        ({"count": 3, "weights": {"age": -1.0}}, "0 or more"),
        ({"count": 3, "weights": {"body": 1.0}}, "likeness"),
        ({"count": 3, "balance": ["weight"]}, "balance names"),
        ({"count": 3, "only": {"sex": ["X"]}}, "0 healthy"),
        ({"count": 3, "alternates": -1}, "alternates is -1"),
    ],
)
def test_what_cannot_be_planned_is_refused(archive, settings, message):
    with pytest.raises(UserError, match=message):
        make_plan(*archive, FINDINGS, **settings)


@pytest.fixture
def crowd(tmp_path) -> tuple[Manifest, pd.DataFrame]:
    """200 healthy and 120 ill training images of 160 patients, two a patient, with sex, age and findings together."""
    rng = np.random.default_rng(5)
    labels = [*["No Finding"] * 200, *["Effusion"] * 60, *["Effusion|Nodule"] * 40, *["Nodule"] * 20]
    patients = rng.permutation(320) // 2
    table = pd.DataFrame(
        {
            "image_id": [f"i{n:03}" for n in range(320)],
            "path": [f"i{n:03}.png" for n in range(320)],
            "labels": labels,
            "patient_id": [f"p{n:03}" for n in patients],
            "sex": rng.choice(["F", "M"], 160, p=[0.25, 0.75])[patients],
            "age": rng.integers(20, 90, 160)[patients],
            "view": "PA",
            "site": "A",
        }
    )
    return Manifest.from_table(table, tmp_path), table[["image_id", "patient_id"]].assign(split="train")


def test_exemplars_are_of_another_patient_and_like_the_source(crowd):
    table = crowd[0].table.set_index("image_id")
    plan = make_plan(*crowd, FINDINGS, count=100, alternates=3, weights={"use": 0.0})
    far = make_plan(*crowd, FINDINGS, count=100, alternates=0, weights={"use": 0.0, "sex": 0.0, "age": 0.0})
    source, exemplar = table.loc[plan["source_id"]], table.loc[plan["exemplar_id"]]
    assert (source["sex"].to_numpy() == exemplar["sex"].to_numpy()).mean() > 0.95
    apart = np.abs(source["age"].to_numpy() - exemplar["age"].to_numpy()).mean()
    chance = np.abs(table.loc[far["source_id"], "age"].to_numpy() - table.loc[far["exemplar_id"], "age"].to_numpy())
    assert apart < 0.3 * chance.mean()
    for row in plan.to_dict("records"):
        everyone = [row["exemplar_id"], *row["alternates"].split("|")]
        assert len(set(everyone)) == 4
        patients = table.loc[[row["source_id"], *everyone], "patient_id"]
        assert patients.iloc[0] not in set(patients.iloc[1:])


def test_limits_of_patients_and_exemplars_hold(crowd):
    table = crowd[0].table.set_index("image_id")
    plan = make_plan(*crowd, FINDINGS, count=120, max_per_patient=1, max_per_exemplar=2)
    assert table.loc[plan["source_id"], "patient_id"].value_counts().max() == 1
    assert plan["exemplar_id"].value_counts().max() <= 2
    with pytest.raises(UserError, match="max_per_exemplar"):
        make_plan(*crowd, ["Nodule"], count=70, max_per_exemplar=1)
    again = make_plan(*crowd, FINDINGS, count=400, max_per_source=2)
    assert not again.duplicated(["source_id", "exemplar_id"]).any()


def test_cohorts_limit_the_sources_and_empty_cells_are_filled_first(crowd):
    table = crowd[0].table.set_index("image_id")
    young = make_plan(*crowd, FINDINGS, count=20, only={"sex": ["F"], "age": [20, 60]})
    chosen = table.loc[young["source_id"]]
    assert set(chosen["sex"]) == {"F"}
    assert chosen["age"].between(20, 59).all()
    plan = make_plan(*crowd, ["Effusion"], count=60, balance=["sex"])
    real = table[table["labels"].str.contains("Effusion")]["sex"].value_counts()
    made = table.loc[plan["source_id"], "sex"].value_counts()
    assert real["F"] + made["F"] == pytest.approx(real["M"] + made.get("M", 0), abs=1)


def test_findings_occur_together_as_in_the_archive(crowd):
    table = crowd[0].table.set_index("image_id")
    plan = make_plan(*crowd, FINDINGS, count=60, co_occurring=True)
    for row in plan.to_dict("records"):
        asked = row["findings"].split("|")
        assert row["finding"] in asked
        assert asked == [f for f in FINDINGS if f in table.loc[row["exemplar_id"], "labels"].split("|")]
        assert all(
            set(asked) <= set(table.loc[a, "labels"].split("|")) for a in filter(None, row["alternates"].split("|"))
        )
    nodules = plan[plan["finding"] == "Nodule"]
    together = (nodules["findings"] == "Effusion|Nodule").mean()
    assert together == pytest.approx(40 / 60, abs=0.15)
    assert (make_plan(*crowd, FINDINGS, count=20)["findings"].str.contains("|", regex=False)).sum() == 0


def test_every_option_leaves_the_plan_independent_of_the_row_order(crowd):
    manifest, splits = crowd
    options = {
        "count": 60,
        "co_occurring": True,
        "balance": ["sex", "age"],
        "max_per_patient": 2,
        "max_per_exemplar": 3,
    }
    order = np.random.default_rng(1).permutation(len(manifest))
    shuffled = Manifest.from_table(manifest.table.iloc[order], manifest.root)
    pd.testing.assert_frame_equal(
        make_plan(*crowd, FINDINGS, **options), make_plan(shuffled, splits.iloc[order], FINDINGS, **options)
    )
