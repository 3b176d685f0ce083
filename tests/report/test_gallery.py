import base64
import shutil

import numpy as np
import pandas as pd

from cxrsynth.data.manifest import Manifest
from cxrsynth.report import figures
from cxrsynth.report.collect import open_run
from cxrsynth.report.gallery import asked_changes, choose, foreign_gallery, galleries, reason_kind


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


def test_refused_images_are_shown_as_they_were_painted_the_farthest_from_a_limit_first(run_folder, tmp_path):
    folder = tmp_path / "runs" / "demo"
    shutil.copytree(run_folder, folder)
    shutil.copytree(run_folder.parents[1] / "phantom", tmp_path / "phantom")
    table = pd.read_csv(folder / "refused.csv", dtype=str)
    rows = [("0001", "gain: 0.1 is below 0.3", "gain", 0.1, 0.3), ("0002", "gain: 0 is below 0.3", "gain", 0.0, 0.3),
            ("0003", "seam: 9 is above 2; gain: 0 is below 0.3", "seam", 9.0, 2.0)]  # fmt: skip
    painted = pd.DataFrame(rows, columns=["id", "refused", "check", "score", "limit"]).assign(finding="Nodule")
    pd.concat([table, painted]).to_csv(folder / "refused.csv", index=False)
    shown = galleries(open_run(folder))["refused"]
    ids = [row.record["id"] for row in shown]
    assert ids.index("0002") < ids.index("0001")
    assert set(ids[:4]) == {"0002", "0003", "9001", "9002"}  # each kind of reason once before any comes twice
    by_id = {row.record["id"]: row for row in shown}
    assert [title for title, _ in by_id["0003"].panels] == ["source", "map", "region", "result", "difference"]
    assert by_id["0003"].problem.startswith("seam")
    assert [title for title, _ in by_id["9001"].panels] == ["source", "exemplar"]


def test_another_generators_images_are_shown_with_the_sources_they_name(run_folder, tmp_path):
    archive = Manifest.load(run_folder.parents[1] / "phantom" / "metadata.csv")
    films = archive.table.image_id.tolist()
    for number in range(2):
        shutil.copy(archive.path(films[number]), tmp_path / f"made{number}.png")
    rows = pd.DataFrame({"image_id": ["made0", "made1"], "path": ["made0.png", "made1.png"], "labels": "Nodule"})
    rows.assign(source_id=[films[1], ""]).to_csv(tmp_path / "manifest.csv", index=False)
    shown = {
        row.record["id"]: row for row in foreign_gallery(Manifest.load(tmp_path / "manifest.csv"), archive)["typical"]
    }
    assert [title for title, _ in shown["made0"].panels] == ["source", "result", "difference"]
    assert [title for title, _ in shown["made1"].panels] == ["result"]


def test_loss_multiples_hold_every_training_and_the_prior():
    table = pd.DataFrame({"step": [1, 2, 2], "train/loss": [0.5, np.nan, 0.4], "val/loss": [np.nan, 0.6, 0.55]})
    drawn = figures.loss_multiples({"real": [table, table], "other": [table], "none": []}, prior=0.3)
    assert set(drawn) == {"real", "other"}
    lines = {arm: base64.b64decode(uri.partition(",")[2]).count(b"stroke-dasharray") for arm, uri in drawn.items()}
    assert lines == {"real": 3, "other": 2}  # two trainings and the prior, one and the prior; validation is solid
    assert figures.loss_multiples({"real": []}, prior=0.3) == {}


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
