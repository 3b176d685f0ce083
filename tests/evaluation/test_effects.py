import numpy as np
import pandas as pd
import pytest

from cxrsynth.errors import UserError
from cxrsynth.evaluation.effects import effects_table, paired_scores


def test_paired_scores_line_up_sources_and_results():
    plan = pd.DataFrame({"id": ["x", "y"], "source_id": ["s", "s"], "finding": ["A", "B"]})
    before = pd.DataFrame({"A": [0.1], "B": [0.2]}, index=["s"])
    after = pd.DataFrame({"A": [0.9, 0.3], "B": [0.4, 0.8]}, index=["x", "y"])
    rows = paired_scores(plan, before, after, "oracle", {"s": "patient"})
    assert rows[["id", "scored", "before", "after"]].values.tolist() == [
        ["x", "A", 0.1, 0.9],
        ["x", "B", 0.2, 0.4],
        ["y", "A", 0.1, 0.3],
        ["y", "B", 0.2, 0.8],
    ]
    assert set(rows["source_patient"]) == {"patient"}


def effects() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    parts = []
    for finding, scored, gain in (("A", "A", 0.4), ("A", "B", 0.0), ("B", "B", -0.3)):
        before = generator.random(60) * 0.1
        after = before + gain + generator.normal(size=60) * 0.1
        parts.append(pd.DataFrame({"finding": finding, "scored": scored, "before": before, "after": after}))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(
        id=[f"i{n}" for n in range(len(table))],
        source_patient=[f"p{n % 20}" for n in range(len(table))],
        scorer="oracle",
    )


def test_rises_falls_and_cannot_tell():
    table = effects_table(effects())
    assert table[["finding", "scored"]].values.tolist() == [["A", "A"], ["B", "B"], ["A", "B"]]
    assert table["verdict"].tolist() == ["rises", "falls", "cannot tell"]
    rows = effects().query("finding == 'A' and scored == 'A'")
    assert table.at[0, "difference"] == pytest.approx((rows["after"] - rows["before"]).mean())
    assert table.at[0, "risen"] == pytest.approx((rows["after"] > rows["before"]).mean())
    assert table.at[0, "images"] == 60
    assert table.at[0, "patients"] == 20
    assert table.at[0, "low"] < table.at[0, "difference"] < table.at[0, "high"]


def test_column_scored_may_be_left_out_and_none_is_empty():
    plain = effects().query("finding == scored").drop(columns="scored")
    assert effects_table(plain)["scored"].tolist() == ["A", "B"]
    empty = effects_table(plain.iloc[:0])
    assert len(empty) == 0
    assert "verdict" in empty
    with pytest.raises(UserError, match="lacks before"):
        effects_table(plain.drop(columns="before"))
