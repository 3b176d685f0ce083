"""Accept rates, what the selection gained, and the dataset card, on a run made by hand."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from cxrsynth.cli import main
from cxrsynth.data import Manifest
from cxrsynth.report.acceptance import acceptance, reasons, risen
from cxrsynth.report.collect import open_run
from cxrsynth.report.page import write_report
from cxrsynth.synthesis.outputs import write_outputs


@pytest.fixture
def selected(run_folder, tmp_path) -> Path:
    """The run with every second image refused by the selection."""
    shutil.copytree(run_folder.parents[1], tmp_path / "copy")
    run = tmp_path / "copy" / "runs" / "demo"
    records = [json.loads(line) for line in (run / "provenance.jsonl").read_text().splitlines()]
    refused = []
    for number, record in enumerate(records):
        record["accepted"] = number % 2 == 0
        if not record["accepted"]:
            why = "gain: 0.01 is not above 0.10" + ("; seam: 3.0 is above 2.0" if number % 4 == 1 else "")
            refused.append({**{k: record[k] for k in ("id", "source_id", "exemplar_id", "finding")}, "refused": why})
    refused.append({**refused[0], "id": "9001", "refused": "registration: correlation 0.31 is below 0.5"})
    (run / "provenance.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pd.DataFrame(refused).to_csv(run / "refused.csv", index=False)
    write_outputs(run, records, Manifest.load(tmp_path / "copy" / "phantom" / "metadata.csv").table)
    return run


def test_accept_rates_count_planned_painted_and_accepted_images(selected):
    *findings, every = acceptance(open_run(selected))
    records = [json.loads(line) for line in (selected / "provenance.jsonl").read_text().splitlines()]
    assert (every["planned"], every["painted"], every["accepted"]) == (21, 20, 10)
    assert every["rate"] == pytest.approx(10 / 21)
    assert {row["pasted"] for row in findings} == {None}  # a run of a version that did not measure it
    real = {"share": 0.25, "pairs": 44}
    (selected / "selection.json").write_text(json.dumps({"real_lesions": {findings[0]["finding"]: real}}))
    assert [row["pasted"] for row in acceptance(open_run(selected))] == [real] + [None] * len(findings)
    for row in findings:
        own = [r for r in records if r["finding"] == row["finding"]]
        assert (row["painted"], row["accepted"]) == (len(own), sum(r["accepted"] for r in own))
    assert every["reasons"]["the asked finding does not rise enough"] == 10
    assert every["reasons"]["the exemplar does not register"] == 1


def test_every_reason_of_an_image_counts():
    counts = reasons(pd.Series(["gain: 1 is low; seam: 2 is high", "seam: 3 is high", "unreadable: a; b: c"]))
    assert list(counts.values()) == [2, 1, 1]
    assert next(iter(counts)) == "a seam at the region's edge"


def test_the_share_that_rose_is_told_of_all_images_and_of_the_accepted_ones(selected):
    effects = pd.read_csv(selected / "study" / "effects.csv", dtype={"id": str})
    kept = {r["id"] for r in map(json.loads, (selected / "provenance.jsonl").read_text().splitlines()) if r["accepted"]}
    rows = {(row["scorer"], row["chosen"]): row for row in risen(open_run(selected))}
    assert len(rows) == 4
    for (scorer, chosen), row in rows.items():
        asked = effects[(effects["scorer"] == scorer) & (effects["scored"] == effects["finding"])]
        asked = asked[asked["id"].isin(kept)] if chosen == "accepted" else asked
        change = asked["after"] - asked["before"]
        assert row["images"] == len(asked)
        assert row["difference"] == pytest.approx(change.mean())
        assert row["risen"] == pytest.approx((change > 0).mean())
        assert row["low"] < row["difference"] < row["high"]


def test_the_page_shows_the_selection(selected):
    without = write_report(selected).read_text()
    finding = acceptance(open_run(selected))[0]["finding"]
    limits = {"network": "compact", "scorer_sha256": "0", "real_lesions": {finding: {"share": 0.25, "pairs": 44}}}
    (selected / "selection.json").write_text(json.dumps(limits))
    page = write_report(selected).read_text()
    assert "Real lesions, pasted" in page
    assert "25 %<small>of 44</small>" in page
    assert "of 44" not in without
    assert "Which images were kept?" in page
    assert "a seam at the region&#39;s edge (5)" in page
    assert "The selection accepted 10 of 21" in page


def test_without_a_selection_the_page_is_silent_about_it(run_folder):
    assert acceptance(open_run(run_folder)) == []
    assert risen(open_run(run_folder)) == []


def test_the_card_says_what_how_many_whence_and_by_what(selected, capsys):
    main(["card", str(selected)])
    card = (selected / "card.md").read_text()
    assert capsys.readouterr().out.strip().endswith("card.md")
    assert "| images | 10 accepted; 10 more were painted and refused" in card
    table = pd.read_csv(selected / "synthetic.csv")
    for column in ("labels", "sex", "view"):
        for value, count in table[column].value_counts().items():
            assert f"| {value} | {count} |" in card
    assert f"| inpainting | `{'0' * 64}` |" in card
    assert "the asked finding does not rise enough (10)" in card
    assert "no patient stands behind them" in card
    assert "cxrsynth verify" in card
    first = card
    main(["card", str(selected)])
    assert (selected / "card.md").read_text() == first


def test_the_card_of_a_real_archive_asks_for_its_terms(selected):
    config = (selected / "config.yaml").read_text().replace("phantom:\n", "synthetic_archive:\n")
    (selected / "config.yaml").write_text(config)
    (selected.parents[1] / "phantom" / "LICENSE.txt").write_text("terms")
    main(["card", str(selected)])
    card = (selected / "card.md").read_text()
    assert "TO FILL IN" in card
    assert "LICENSE.txt" in card


def test_a_folder_without_images_has_no_card(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(SystemExit):
        main(["card", str(tmp_path)])
    assert "no synthetic images yet" in capsys.readouterr().err
