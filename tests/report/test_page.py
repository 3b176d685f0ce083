import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cxrsynth.errors import UserError
from cxrsynth.report import write_report

VOID = {"meta", "link", "img", "line", "circle", "br"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.without_alt = 0
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.without_alt += tag == "img" and not values.get("alt")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data.strip())
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def written(run_folder):
    path = write_report(run_folder)
    return Page(path.read_text()), json.loads((run_folder / "report.json").read_text()), run_folder


def test_page_is_self_contained_and_accessible(written):
    page, _, folder = written
    assert page.links
    assert all(link.startswith("data:") for link in page.links)
    text = (folder / "report.html").read_text()
    assert not re.search(r"url\(|@import|<script|https?://(?!www\.w3\.org)", text)
    assert page.without_alt == 0
    assert '<html lang="en">' in text
    assert "/tmp" not in page.text


def test_page_tells_what_was_asked(written):
    page, content, _ = written
    for heading in (
        "The images",
        "Does the asked finding appear?",
        "Did they help a classifier?",
        "Exactness",
        "Refused",
    ):
        assert heading in page.headings
    assert "20 of 20" in page.text
    assert "cxrsynth run --config lightning_configs/quickstart.yaml" in page.text
    assert "not for clinical use" in page.text
    macro = content["utility"]["metrics"]["auroc"][-1]
    assert f"{macro['synthetic']:.2f} on real and synthetic ones" in page.text
    for name in ("source", "map", "region", "result", "difference", "exemplar"):
        assert name in page.text


def test_json_holds_every_figure(written):
    _, content, _ = written
    assert content["verdict"] in ("helped", "did not help", "cannot tell")
    assert content["not_run"] == []
    assert content["images"]["made"] == 20
    assert content["exactness"]["exact"] == 20
    assert {row["scorer"] for row in content["effects"]} == {"oracle", "classifier"}
    assert content["localisation"][-1]["finding"] == "all"
    assert content["refused"]["count"] == 4
    assert set(content["losses"]) == {"real", "synthetic"}
    assert len(content["checkpoints"]["inpainting.ckpt"]) == 64


def test_markdown_has_the_headline(written):
    _, content, folder = written
    text = (folder / "report.md").read_text()
    for answer in content["headline"]:
        assert answer["question"] in text
        assert answer["figure"] in text


def test_same_run_gives_the_same_bytes(written, run_folder):
    before = [(run_folder / name).read_bytes() for name in ("report.html", "report.json", "report.md")]
    write_report(run_folder)
    assert before == [(run_folder / name).read_bytes() for name in ("report.html", "report.json", "report.md")]


@pytest.fixture
def copy(run_folder, tmp_path):
    shutil.copytree(run_folder.parents[1], tmp_path / "copy")
    return tmp_path / "copy" / "runs" / "demo"


def test_missing_parts_are_named_not_errors(copy):
    for name in ("provenance.jsonl", "refused.csv", "study", "logs", "splits.csv"):
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    content = json.loads((write_report(copy).parent / "report.json").read_text())
    text = (copy / "report.html").read_text()
    for part in ("images", "effects", "localisation", "classifier, real images"):
        assert part in content["not_run"]
        assert part in text
    assert content["verdict"] == "cannot tell"
    Page(text)


def test_a_changed_pixel_is_reported(copy):
    path = copy / "images" / "0003.png"
    values = np.array(Image.open(path))
    values[0, 0] ^= 1
    Image.fromarray(values).save(path)
    write_report(copy)
    text = (copy / "report.html").read_text()
    assert "19 of 20" in text
    assert "1 pixels outside the region changed" in text


def test_names_from_the_archive_are_escaped(copy):
    refused = copy / "refused.csv"
    refused.write_text(refused.read_text().replace("Nodule", "<img src=x onerror=alert(1)>"))
    write_report(copy)
    assert "<img src=x" not in (copy / "report.html").read_text()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
