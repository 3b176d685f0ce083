"""The page of a study: whole, self-contained, readable, with every figure in the JSON."""

import copy
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

from cxrsynth.evaluation.memorisation import MEMORISED, NEARER, NO_SIGN
from cxrsynth.report.study_page import write_study_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FRAME = """<iframe style="width: {width}px; height: 900px" srcdoc="{page}" onload="
document.title = 'width ' + this.contentDocument.documentElement.scrollWidth"></iframe>"""
QUESTIONS = (
    *("Did the synthetic images help a classifier?", "Which data?", "How sure is that?", "For whom is it worse?"),
    *("Are they copies of training images?", "Not tested", "Worst first", "On another archive"),
    *("With fewer real positives", "needs regions", "Losses of every training", "Usual ones", "what their text says"),
    *("Dataset card of the images", "A segmenter: no finding is marked", "Beside a published model"),
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


def published(plain, path: Path) -> Path:
    """Another model's predictions: always right about the first finding, and it knows nothing else."""
    table = pd.read_csv(plain.archive).iloc[100:]
    right = table["labels"].str.contains(plain.places[0]).astype(float)
    pd.DataFrame({"image_id": table["image_id"], f"prob_{plain.places[0]}": right}).to_csv(path, index=False)
    return path


@pytest.fixture
def written(plain, simple_trainer, tmp_path):
    """Page, JSON and Markdown of a study with a few-shot curve and an external archive."""
    generator = np.random.default_rng(0)
    made = [(plain.picture(generator, [plain.places[n % 2]]), plain.places[n % 2]) for n in range(30)]
    options = {"seeds": 2, "draws": 100, "positives": [3], "external": str(other_hospital(plain, tmp_path / "other")),
               "segmentation": {}, "reference": str(published(plain, tmp_path / "published.csv")),
               "agreement": {"size": 16, "steps": 3, "batch_size": 8, "width": 16, "vocabulary": 280}}  # fmt: skip
    arms = ["real", "duplicates", "oversampling", "copy_paste", "synthetic", "synthetic@0.1", "pretrain"]
    images = plain.write_images(tmp_path / "made", made)
    (images.parent / "card.md").write_text("# Rigged images <by a test>\n")
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
    assert [row["finding"] for row in figures["external"]["rows"]] == ["Effusion", "Nodule", "mean", "any disease"]
    assert 0 <= figures["external"]["rows"][-1]["real"]["estimate"] <= 1
    assert figures["data"]["synthetic"][0]["by_finding"] == {"Effusion": 15, "Nodule": 15}
    assert len(figures["hashes"]["manifest"]) == 64
    assert figures["trainings"]["freedom"] == 6  # six arms of two trainings
    assert figures["reference"]["published"]["estimate"] == figures["reference"]["whole"]["auroc"] == 1
    assert figures["reference"]["own"]["estimate"] < 0.95
    assert figures["reference"]["images"] < figures["data"]["judged_images"]
    assert {row["kind"] for row in figures["agreement"]["rows"]} > {"synthetic images", "real test images"}
    assert len(figures["fairness"]["real"]) == len(figures["fairness"]["synthetic"]) > 1
    for row in figures["headline"]:
        assert row["figure"] in markdown
    assert figures["memorisation"]["whole images"]["by_chance"] > 0.05
    check_words(page.parent, figures)
    again = with_more(page.parent, figures)
    assert "Did they help a segmenter?" in Page(again).text
    if BROWSER is not None:
        for width in (390, 1280):
            fits(again, width, tmp_path)


def check_words(folder: Path, figures: dict) -> None:
    """The page written again with other figures says other words."""
    content = copy.deepcopy({key: value for key, value in figures.items() if key != "headline"})
    area, copies = content["arms"]["real"]["metrics"]["auroc"][-1], content["memorisation"]["whole images"]
    for low, word, figure in ((0.45, NO_SIGN, "no sign of it"), (0.6, NEARER, NEARER), (0.6, MEMORISED, "yes")):
        area["low"] = low
        copies.update(word=word, memorised=word == MEMORISED)
        text = Page(write_study_page(folder, content).read_text()).text
        assert ("not shown to be better than chance" in text) == (low < 0.5)
        headline = json.loads((folder / "report.json").read_text())["headline"]
        assert {row["question"]: row["figure"] for row in headline}["Are they copies of training images?"] == figure
        table = text[text.index("Copies of training images") :]
        assert [w for w in (NO_SIGN, NEARER, MEMORISED) if w in table[: table.index("Worst first")]] == [word]


def with_more(folder: Path, figures: dict) -> str:
    """The page written again with a segmenter's figures, curves of every arm and images of a run."""
    spread = {"estimate": 0.41, "deviation": 0.02, "low": 0.35, "high": 0.5, "p": 0.1}
    row = {"lesions": 12, "real": spread, "synthetic": spread, "gain": spread, "verdict": "cannot tell"}
    rows = [{"finding": name, **row} for name in (*figures["findings"], "mean")]
    more = {"rows": rows, "painted_where_absent": {"real": 0.1, "synthetic": 0.2}, "patients": 9,
            "settings": {"size": 64, "steps": 300, "seeds": 3}}  # fmt: skip
    for arm in figures["arms"]:
        for seed in range(2):
            logs = folder / "arms" / "all" / arm / f"seed{seed}" / "logs" / "classification"
            logs.mkdir(parents=True, exist_ok=True)
            steps = np.arange(10) * 10
            losses = pd.DataFrame({"step": steps, "train/loss": 0.6 - 0.004 * steps, "val/loss": 0.5 + 0.01 * seed})
            losses.to_csv(logs / "metrics.csv", index=False)
    content = {key: value for key, value in figures.items() if key != "headline"}
    text = write_study_page(folder, {**content, "segmentation": more}).read_text()
    assert text.count("image/svg+xml") >= len(figures["arms"])
    return text


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
