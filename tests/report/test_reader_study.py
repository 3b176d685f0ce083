import json
import re

import numpy as np
import pytest

from cxrsynth.errors import UserError
from cxrsynth.report.collect import open_run
from cxrsynth.report.reader_study import box_of, choose_items, reader_study


def test_the_page_is_blinded_and_needs_no_network(run_folder, tmp_path):
    told = reader_study(str(run_folder), str(tmp_path), count=6)
    text = (tmp_path / "readers.html").read_text()
    key = json.loads((tmp_path / "key.json").read_text())
    assert "6 images" in told
    assert text.count("data:image/jpeg") == 6
    assert not re.search(r"https?://|@import|url\(|<link rel=\"stylesheet", text)
    kinds = [item["kind"] for item in key["items"].values()]
    assert sorted(kinds) == ["real"] * 3 + ["synthetic"] * 3
    assert sum(item["shows"] for item in key["items"].values()) == 3
    for item in key["items"].values():  # neither names nor kinds of images are on the page, nor in the items' order
        assert str(item["image"]) not in re.sub(r"data:[^\"]*", "", text)
    assert "shows: null" in text
    script = re.search(r"items = (\[.*?\]);", text, re.S)
    assert script is not None
    assert all(set(item) == {"item", "asked", "uri"} for item in json.loads(script[1]))
    again = tmp_path / "again"
    reader_study(str(run_folder), str(again), count=6)
    assert (again / "readers.html").read_text() == text


def test_real_images_are_held_out_and_asked_findings_are_true_where_the_key_says_so(run_folder):
    run = open_run(run_folder)
    held_out = set(run.splits.image_id[run.splits.split != "train"])
    made = {record["id"]: record["finding"] for record in run.records}
    for item in choose_items(run, 8, seed=1):
        if item["kind"] == "real":
            assert item["image"] in held_out
        else:
            assert (item["asked"] == made[item["image"]]) == item["shows"]
        assert item["shows"] or item["box"] is None


def test_saved_answers_become_results(run_folder, tmp_path):
    reader_study(str(run_folder), str(tmp_path), count=6)
    key = json.loads((tmp_path / "key.json").read_text())
    right = {i: {"kind": item["kind"], "shows": item["shows"], "point": None} for i, item in key["items"].items()}
    blind = {i: {"kind": "real", "shows": True, "point": [0.5, 0.5]} for i in key["items"]}
    for name, answers in (("anna", right), ("ben", blind)):
        content = {"study": key["study"], "reader": name, "answers": answers}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = [str(tmp_path / "anna.json"), str(tmp_path / "ben.json")]
    assert "anna 100 % and ben 50 %" in reader_study(str(run_folder), str(tmp_path), answers=files)
    result = json.loads((tmp_path / "readers.json").read_text())
    assert result["readers"]["anna"]["told_apart"]["share"] == 1
    assert result["agreement"]["kind"][0]["kappa"] == 0
    (tmp_path / "ben.json").write_text(json.dumps({"study": "another", "answers": {}}))
    with pytest.raises(UserError, match="another study"):
        reader_study(str(run_folder), str(tmp_path), answers=files)


def test_too_few_images_are_refused(run_folder, tmp_path):
    with pytest.raises(UserError, match="smaller count"):
        reader_study(str(run_folder), str(tmp_path), count=400)
    with pytest.raises(UserError, match="make the page first"):
        reader_study(str(run_folder), str(tmp_path / "none"), answers=["x.json"])


def test_the_box_of_a_region_is_in_shares_of_the_image():
    region = np.zeros((10, 20), bool)
    region[2:5, 4:8] = True
    assert box_of(region) == [0.2, 0.2, 0.4, 0.5]
    assert box_of(np.zeros((4, 4), bool)) is None
