"""The inpainters that come with the package, as they are met right after the installation."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from cxrsynth.cli import main
from cxrsynth.editing import edit
from cxrsynth.editing.datamodule import read_requests
from cxrsynth.editing.edit import HEALTHY_GUIDANCE
from cxrsynth.files import sha256_file
from cxrsynth.inpainting import load_inpainter
from cxrsynth.inpainting.weights_file import SHIPPED, find_inpainter

FINDINGS = {
    "nih": {"Effusion", "Cardiomegaly", "Atelectasis", "Infiltration", "Pneumonia"},
    "phantom": {"Effusion", "Consolidation", "Pneumothorax", "Nodule", "Cardiomegaly", "Atelectasis"},
}
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_small_and_have_a_card(name):
    file = find_inpainter(name)
    assert file.stat().st_size <= 8_000_000
    card = file.with_suffix(".md").read_text()
    assert "not for clinical use" in card.lower()
    assert f"cxrsynth export runs/{'nih' if name == 'nih' else 'guided'}" in card
    task = load_inpainter(name)
    assert set(task.hparams["findings"]) == FINDINGS[name]
    assert set(task.hparams["fields"]) == {"text", "view", "sex", "age"}
    assert all(task.average_maps.of(row) is not None for row in range(len(FINDINGS[name])))
    assert task.patients  # whoever starts from it is told when they are in a test set


def test_the_card_of_real_films_gives_the_credit_that_is_asked_for():
    card = find_inpainter("nih").with_suffix(".md").read_text()
    for word in ("NIH Clinical Center", "https://nihcc.app.box.com/v/ChestXray-NIHCC", "ChestX-ray8", "CVPR 2017"):
        assert word in card


def _inpaint(source: Path, out: Path, *options: str) -> dict:
    region = out.with_name("region.png")
    common = ["--image", str(source), "--out", str(out), "--region-out", str(region), "--steps", "2"]
    main(["inpaint", *common, *options])
    return json.loads(out.with_suffix(".json").read_text()) | {"painted": np.array(Image.open(region)) == 255}


@pytest.mark.parametrize("bits", [8, 16])
def test_without_a_checkpoint_the_inpainter_of_real_films_paints_and_says_so(write_film, tmp_path, capsys, bits):
    source = write_film(tmp_path / "chest.png", 200, 180, bits)
    record = _inpaint(source, tmp_path / "out.png", "--finding", "Pleural Effusion")
    assert "the inpainter nih that comes with the package" in capsys.readouterr().out
    assert record["checkpoints"] == {"inpainting": sha256_file(find_inpainter("nih"))}
    before, after, painted = np.array(Image.open(source)), np.array(Image.open(tmp_path / "out.png")), record["painted"]
    assert (before.dtype, before.shape) == (after.dtype, after.shape)
    np.testing.assert_array_equal(before[~painted], after[~painted])
    assert (before[painted] != after[painted]).mean() > 0.5


def test_dicom_stays_exact_outside_with_shipped_weights(film, write_dicom, tmp_path):
    pixels = (film(200, 180) * 4095).astype(np.uint16)
    source = write_dicom(tmp_path / "chest.dcm", pixels)
    asked = ("--checkpoint", "phantom", "--text", "There is a nodule.", "--box", "40,50,110,120")
    record = _inpaint(source, tmp_path / "out.dcm", *asked)
    made, painted = pydicom.dcmread(tmp_path / "out.dcm").pixel_array, record["painted"]
    np.testing.assert_array_equal(made[~painted], pixels[~painted])
    assert (made[painted] != pixels[painted]).mean() > 0.5


def test_what_a_text_denies_is_absent_wherever_it_comes_from(write_film, tmp_path):
    source = write_film(tmp_path / "chest.png", 100, 100, 8)
    text, asked = "A nodule, no effusion.", {"checkpoint": "phantom", "box": [40, 50, 70, 80], "steps": 1}
    edited = edit(source, text=text, **asked)
    assert edited.record["condition"]["absent"] == ["Effusion"]
    options = ("--checkpoint", "phantom", "--text", text, "--box", "40,50,70,80", "--steps", "1")
    assert _inpaint(source, tmp_path / "out.png", *options)["condition"]["absent"] == ["Effusion"]
    (tmp_path / "requests.csv").write_text(f'id,image,text,box\na,chest.png,"{text}","40,50,70,80"\n')
    (request,) = read_requests(tmp_path / "requests.csv")
    row = edit(request["image"], **asked | {name: request[name] for name in ("text", "box")})
    for result in (np.array(Image.open(tmp_path / "out.png")), row.pixels):
        np.testing.assert_array_equal(result, edited.pixels)
    assert edit(source, finding="Effusion", text=text, **asked).record["condition"]["findings"] == ["Effusion"]
    denied = edit(source, text="No effusion.", **asked)
    np.testing.assert_array_equal(denied.pixels, edit(source, remove=True, **asked).pixels)
    healthy = denied.record
    assert healthy["condition"]["absent"] == list(load_inpainter("phantom").hparams["findings"])
    assert max(healthy["guidance"].values()) == HEALTHY_GUIDANCE < max(edited.record["guidance"].values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--text", "There is a large effusion at the base. " * 30, "--full"], ("text has", "shorten it")),
        (["--finding", "Nodule", "--full"], ("'Nodule'", "Effusion")),
        (["--finding", "Effusion", "--full", "--view", "LL"], ("'LL'", "PA, AP")),
        (["--finding", "Effusion", "--full", "--age", "400"], ("400",)),
    ],
)
def test_bad_requests_give_one_sentence(write_film, tmp_path, capsys, options, words):
    source = write_film(tmp_path / "chest.png", 100, 100, 8)
    with pytest.raises(SystemExit) as stop:
        main(["inpaint", "--image", str(source), "--out", str(tmp_path / "out.png"), *options])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words)
    assert not (tmp_path / "out.png").exists()
