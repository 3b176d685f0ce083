"""The page of a study: whole, self-contained, readable, with every figure in the JSON."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FRAME = """<iframe style="width: {width}px; height: 900px" srcdoc="{page}" onload="
document.title = 'width ' + this.contentDocument.documentElement.scrollWidth"></iframe>"""
QUESTIONS = (
    *("Did the synthetic images help a classifier?", "Which data?", "How sure is that?", "For whom is it worse?"),
    *("Are they copies of training images?", "Not tested", "Worst first", "On another archive"),
    *("With fewer real positives", "needs regions"),
)
VOID = {"meta", "link", "img", "line", "circle", "br"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what is looked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str | None] = []
        self.text, self.without_alt = "", 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.without_alt += tag == "img" and not dict(attrs).get("alt")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def other_hospital(plain, folder: Path) -> Path:
    """Forty films that nothing is trained on; the second finding was never read for."""
    generator = np.random.default_rng(9)
    rows = []
    folder.mkdir()
    for number in range(40):
        ill = number % 3 == 0
        Image.fromarray(plain.picture(generator, plain.places[:1] if ill else [])).save(folder / f"other{number}.png")
        rows.append({"image_id": f"other{number}", "path": f"other{number}.png", "patient_id": f"q{number}",
                     "labels": plain.places[0] if ill else "No Finding", "unknown": plain.places[1]})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return folder / "metadata.csv"


@pytest.fixture
def written(plain, simple_trainer, tmp_path):
    """Page, JSON and Markdown of a study with a few-shot curve and an external archive."""
    generator = np.random.default_rng(0)
    made = [(plain.picture(generator, [plain.places[n % 2]]), plain.places[n % 2]) for n in range(30)]
    options = {"seeds": 2, "draws": 100, "positives": [3], "external": str(other_hospital(plain, tmp_path / "other"))}
    arms = ["real", "duplicates", "oversampling", "copy_paste", "synthetic", "synthetic@0.1", "pretrain"]
    images = plain.write_images(tmp_path / "made", made)
    page = plain.study(plain.archive, images, tmp_path / "out", arms=arms, **options)
    return page, json.loads(page.with_suffix(".json").read_text()), page.with_suffix(".md").read_text()


def test_the_page_says_what_a_reader_asks(written, tmp_path):
    page, figures, markdown = written
    text = page.read_text()
    parsed = Page(text)
    assert parsed.links
    assert all(link is not None and link.startswith("data:") for link in parsed.links)
    assert not re.search(r"url\(|@import|<script|https?://(?!www\.w3\.org)", text)
    assert parsed.without_alt == 0
    assert "nan" not in parsed.text.lower()
    for words in QUESTIONS:
        assert words in parsed.text
    assert figures["verdict"] in ("helped", "did not help", "cannot tell", "memorised")
    assert set(figures["arms"]) == {"real", "duplicates", "oversampling", "synthetic", "synthetic@0.1", "pretrain"}
    assert [row["finding"] for row in figures["verdicts"]] == ["Effusion", "Nodule", "mean"]
    mean = figures["verdicts"][-1]["over_real"]
    assert mean["low"] <= mean["estimate"] <= mean["high"]
    assert {row["positives"] for row in figures["curves"]} == {3, None}
    assert figures["external"]["images"] == 40
    assert figures["external"]["rows"][1]["real"]["estimate"] is None  # never read for
    assert figures["data"]["synthetic"][0]["by_finding"] == {"Effusion": 15, "Nodule": 15}
    assert len(figures["hashes"]["manifest"]) == 64
    for row in figures["headline"]:
        assert row["figure"] in markdown
    if BROWSER is not None:
        for width in (390, 1280):
            fits(text, width, tmp_path)


def fits(text: str, width: int, folder: Path) -> None:
    """The page in a real browser: no wider than its window, nothing on the console."""
    file = folder / "frame.html"
    opened = html.escape(text.replace("<details>", "<details open>"))
    file.write_text("<!doctype html><title></title>" + FRAME.format(width=width, page=opened))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", file.as_uri()]
    done = subprocess.run([str(BROWSER), *options], capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"<title>width (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) == width
    assert "CONSOLE" not in done.stderr
