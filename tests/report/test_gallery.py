import numpy as np
import pandas as pd

from cxrsynth.report import figures
from cxrsynth.report.gallery import asked_changes, choose, reason_kind


def records(findings: str) -> list[dict]:
    return [{"id": f"{n:02d}", "finding": name} for n, name in enumerate(findings)]


def effects(changes: list[float]) -> pd.DataFrame:
    rows = [
        {"id": f"{n:02d}", "finding": "A", "scored": scored, "scorer": scorer, "before": 0.0, "after": value}
        for n, change in enumerate(changes)
        for scorer, scored, value in (("classifier", "A", -change), ("oracle", "A", change), ("oracle", "B", 9.0))
    ]
    return pd.DataFrame(rows)


def test_worst_are_the_smallest_changes_and_typical_the_middle():
    changes = asked_changes(effects([0.9, 0.1, 0.5, 0.2, 0.3, 0.4, 0.6, 0.0, 0.7, 0.8]))
    assert changes["00"] == [("oracle", 0.0, 0.9), ("classifier", 0.0, -0.9)]
    typical, worst = choose(records("A" * 10), changes)
    assert [r["id"] for r in worst] == ["07", "01", "03", "04"]
    assert typical[0]["id"] == "08"  # the middle of 05 02 06 08 09 00
    assert {r["id"] for r in typical}.isdisjoint(r["id"] for r in worst)


def test_every_finding_is_shown_in_turn():
    typical, worst = choose(records("AAAAABBBBBCCCCC"), {})
    assert [r["finding"] for r in typical] == ["A", "B", "C", "A", "B", "C"]
    assert worst == []
    many, _ = choose(records("ABCDEFGHIJKLMN"), {})
    assert len(many) == 14


def test_reasons_are_counted_without_their_numbers():
    assert reason_kind("correlation 0.31 is below 0.5") == reason_kind("correlation -0.2 is below 0.5")
    assert reason_kind("correlation 0.31 is below 0.5") == "correlation … is below …"


def test_difference_is_grey_where_nothing_changed():
    before = np.full((8, 8), 0.4, np.float32)
    after = before.copy()
    after[:4] += 0.25
    painted = []
    original = figures.grey
    try:
        figures.grey = lambda image: painted.append(image) or ""
        figures.difference(before, after)
    finally:
        figures.grey = original
    np.testing.assert_allclose(painted[0][:4], 0.75)
    np.testing.assert_allclose(painted[0][4:], 0.5)


def test_curves_share_their_axes_and_skip_empty_ones():
    table = pd.DataFrame({"step": [1, 1, 2], "train/loss": [0.5, np.nan, 0.4], "val/loss": [np.nan, 0.6, np.nan]})
    curves = figures.loss_curves({"real": table, "synthetic": table.drop(columns="val/loss")})
    assert set(curves) == {"real", "synthetic"}
    assert all(uri.startswith("data:image/svg+xml;base64,") for uri in curves.values())
    assert figures.loss_curves({"real": table[["step"]]}) == {}
