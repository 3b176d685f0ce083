import numpy as np
import pandas as pd
import pytest
import torch

from cxrsynth.data import Manifest
from cxrsynth.errors import UserError

ROWS = [
    {"image_id": "a", "labels": "Mass|Effusion", "unknown": "", "view": "PA", "site": "x"},
    {"image_id": "b", "labels": "No Finding", "unknown": "Tuberculosis", "view": "AP", "site": "x"},
    {"image_id": "c", "labels": "Tuberculosis", "unknown": "*", "view": "PA", "site": "y"},
    {"image_id": "d", "labels": "Normal", "unknown": "", "view": "PA", "site": "y"},
    {"image_id": "e", "labels": "", "unknown": "", "view": "PA", "site": "y"},
]


def test_targets_follow_the_contract(archive):
    manifest = Manifest.load(archive(ROWS))
    assert manifest.findings == ["Effusion", "Mass", "Tuberculosis"]
    nan = float("nan")
    expected = [[1, 1, 0], [0, 0, nan], [nan, nan, 1], [0, 0, 0], [nan, nan, nan]]
    targets = manifest.targets(manifest.findings)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets, torch.tensor(expected), equal_nan=True)
    synonym = manifest.targets(["Pleural effusion", "Hernia"])
    torch.testing.assert_close(synonym[:2], torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_healthy_needs_an_explicit_label_and_no_finding_beside_it(archive):
    manifest = Manifest.load(
        archive([*ROWS, {"image_id": "f", "labels": "No Finding|Mass", "view": "PA", "site": "x"}])
    )
    assert manifest.healthy.tolist() == [False, True, False, True, False, False]


def test_ill_is_neither_what_nobody_said_nor_a_device(archive):
    labels = ["Mass", "No Finding", "No Finding|Mass", "", "Support Devices", "support_device|Edema"]
    rows = [{"image_id": str(number), "labels": cell, "view": "PA", "site": "x"} for number, cell in enumerate(labels)]
    rows.append({"image_id": "unsure", "labels": "", "unknown": "Mass", "view": "PA", "site": "x"})
    np.testing.assert_equal(Manifest.load(archive(rows)).ill, [1, 0, 1, np.nan, np.nan, 1, np.nan])


def test_select_keeps_findings_and_filters_boxes(archive):
    path = archive(ROWS)
    pd.DataFrame(
        {"image_id": ["a", "c"], "label": ["Pleural effusion", "TB"], "x_min": 1, "y_min": 2, "x_max": 3.5, "y_max": 4}
    ).to_csv(path.parent / "boxes.csv", index=False)
    manifest = Manifest.load(path)
    assert manifest.boxes.label.tolist() == ["Effusion", "Tuberculosis"]
    part = manifest.select(views=["PA"], sites=["x"])
    assert part.table.image_id.tolist() == ["a"]
    assert part.boxes.image_id.tolist() == ["a"]
    assert part.findings == manifest.findings
    with pytest.raises(UserError, match="no image has view 'lateral'; choose from AP, PA"):
        manifest.select(views=["lateral"])


def test_two_archives_keep_their_roots(archive):
    first = Manifest.load(archive(ROWS[:2], "first"))
    second = Manifest.load(archive([{"image_id": "s", "labels": "Pleural effusion"}], "second"))
    both = first + second
    assert both.path("s") == second.path("s")
    assert both.path("a") == first.path("a")
    assert both.path("s").exists()
    assert both.targets(["Effusion"])[:, 0].tolist() == [1, 0, 1]
    with pytest.raises(UserError, match="'a' is in both"):
        _ = first + first


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_save_and_load(archive, suffix):
    path = archive(ROWS)
    manifest = Manifest.load(path)
    manifest.boxes = pd.DataFrame(
        [{"image_id": "a", "label": "Mass", "x_min": 0.0, "y_min": 1, "x_max": 2, "y_max": 3}]
    )
    again = Manifest.load(manifest.save(path.parent.parent / f"all.{suffix}"))
    assert again.path("a") == manifest.path("a")
    assert again.table.labels.tolist() == manifest.table.labels.tolist()
    assert again.boxes.x_max.tolist() == [2]
    with pytest.raises(UserError, match="lies outside"):
        manifest.save(path.parent / "deeper" / "metadata.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="labels"), "lacks the column 'labels'"),
        (lambda t: pd.concat([t, t]), "more than once"),
        (lambda t: t.assign(path="../secret.png"), "leaves its folder"),
        (lambda t: t.assign(path="/etc/passwd"), "leaves its folder"),
        (lambda t: t.assign(image_id=["../x", *t.image_id[1:]]), "ids become file names"),
        (lambda t: t.assign(image_id=["", *t.image_id[1:]]), "ids become file names"),
    ],
)
def test_bad_manifests_give_one_sentence(archive, change, message):
    path = archive(ROWS)
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(UserError, match=message):
        Manifest.load(path)


def test_a_link_out_of_the_archive_is_not_followed(archive, tmp_path):
    path = archive(ROWS)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"x")
    (path.parent / "images" / "a.png").unlink()
    (path.parent / "images" / "a.png").symlink_to(secret)
    with pytest.raises(UserError, match="leaves its folder"):
        Manifest.load(path).path("a")


def test_missing_file_unknown_finding_and_unknown_image(archive, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Manifest.load(tmp_path / "none.csv")
    manifest = Manifest.load(archive(ROWS))
    with pytest.raises(UserError, match="did you mean 'Mass'"):
        manifest.targets(["Masss"])
    with pytest.raises(UserError, match="'Mass' twice"):
        manifest.targets(["Mass", "mass"])
    with pytest.raises(UserError, match="no image_id 'zz'"):
        manifest.path("zz")


def test_real_archive(shared):
    manifest = Manifest.load(shared / "cxr" / "metadata.csv")
    assert len(manifest) == 1850
    assert manifest.healthy.sum() == 469 + 290
    assert "Infiltration" in set(manifest.boxes.label)
    assert len(manifest.masks) == 110
    targets = manifest.targets(["Tuberculosis", "Hernia"]).numpy()
    nih = (manifest.table.site == "NIH").to_numpy()
    assert np.isnan(targets[nih, 0]).all()
    assert np.nansum(targets, 0).tolist() == [273, 18]
    assert np.isnan(targets[~nih & ~manifest.healthy, 1]).all()
