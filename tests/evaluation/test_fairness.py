import numpy as np
import pandas as pd
import pytest

from cxrsynth.evaluation.fairness import anything_found, fairness_tables, groups


def about(images: int = 240) -> pd.DataFrame:
    index = pd.Index([f"i{n}" for n in range(images)], name="image_id")
    columns = {"sex": ["F", "M"] * (images // 2), "age": np.tile([30, 50, 70, np.nan], images // 4)}
    return pd.DataFrame({**columns, "view": "PA", "site": ""}, index=index)


def predictions(images: int = 240) -> pd.DataFrame:
    """Good predictions for women, chance for men."""
    generator = np.random.default_rng(0)
    truth = (generator.random((images, 2)) < 0.4).astype(float)
    skill = np.where(np.arange(images) % 2 == 0, 6.0, 0.0)[:, None]
    probability = 1 / (1 + np.exp(-(skill * (truth - 0.5) + generator.normal(size=truth.shape))))
    frame = pd.DataFrame({"image_id": [f"i{n}" for n in range(images)], "patient_id": [f"p{n}" for n in range(images)]})
    for index, name in enumerate(("A", "B")):
        frame[f"{name}_prob"], frame[f"{name}_true"] = probability[:, index], truth[:, index]
    return frame


def test_groups_are_columns_with_several_values_and_their_pairs():
    found = groups(about())
    assert set(found) == {
        *("F", "M", "under 40", "40 to 59", "60 and over"),
        *("F, under 40", "M, 40 to 59", "F, 60 and over"),
    }
    assert found["under 40"].sum() == 60
    assert groups(about(40)) == {}


def test_errors_of_each_group_are_those_of_its_images():
    table, cut = predictions(), {"A": 0.5, "B": 0.5}
    found = fairness_tables({"first": ([table, table], [cut, cut]), "second": ([table], [cut])}, about(), draws=60)
    assert found["first"][1]["fnr"]["estimate"] == found["second"][1]["fnr"]["estimate"]
    rows = {row["group"]: row for row in found["first"]}
    assert rows["F"]["auroc"]["estimate"] > 0.95
    assert 0.3 < rows["M"]["auroc"]["low"] < rows["M"]["auroc"]["high"] < 0.75
    women = table.iloc[::2]
    missed = [(women[f"{name}_prob"] < 0.5)[women[f"{name}_true"] == 1].mean() for name in ("A", "B")]
    assert rows["F"]["fnr"]["estimate"] == pytest.approx(np.mean(missed))
    ill = women[(women["A_true"] == 1) | (women["B_true"] == 1)]
    nothing = ((ill["A_prob"] < 0.5) & (ill["B_prob"] < 0.5)).mean()
    assert rows["F"]["underdiagnosis"]["estimate"] == pytest.approx(nothing)
    assert rows["F"]["ill"] == len(ill)


def test_an_image_is_ill_if_any_finding_is_known_to_be_there():
    table = pd.DataFrame({"image_id": list("abc"), "patient_id": list("abc"), "A_prob": [0.9, 0.1, 0.1],
                          "A_true": [0, np.nan, 0], "B_prob": 0.2, "B_true": [1.0, 0, 0]})  # fmt: skip
    found = anything_found(table, {"A": 0.5, "B": 0.5})
    assert found["any_prob"].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(found["any_true"], [1, np.nan, 0])
