"""`cxrsynth inpaint` as a user meets it; every promise is checked on the files."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxrsynth.cli import main
from cxrsynth.data import read_stored
from cxrsynth.files import sha256_file

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")


@pytest.fixture
def paint(checkpoints, tmp_path, capsys):
    """Runs the command with few steps; gives the result's path, the painted pixels and the record."""

    def run(image: Path, *options: str, out: str = "out.png", checkpoint: str = "inpainting.ckpt"):
        path = tmp_path / out
        common = ["--checkpoint", str(checkpoints / checkpoint), "--image", str(image), "--steps", "1"]
        main(["inpaint", *common, "--out", str(path), "--region-out", str(tmp_path / "region.png"), *options])
        assert capsys.readouterr().out.startswith(str(path))
        region = np.array(Image.open(tmp_path / "region.png"))
        assert set(np.unique(region)) <= {0, 255}
        return path, region == 255, json.loads((tmp_path / f"{path.stem}.json").read_text())

    return run


@pytest.fixture
def refused(checkpoints, tmp_path, capsys):
    """Runs the command: one sentence, exit status 2, no file more than before."""

    def run(*options: str, words: tuple[str, ...], out: str = "out.png", checkpoint: Path | None = None):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        common = ["--checkpoint", str(checkpoint or checkpoints / "inpainting.ckpt"), "--out", str(tmp_path / out)]
        with pytest.raises(SystemExit) as stop:
            main(["inpaint", *common, "--steps", "1", *options])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("cxrsynth: ")
        assert not [line for line in lines if "Traceback" in line]
        for word in words:
            assert word in lines[-1]
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    return run


@pytest.fixture
def chest(tmp_path, write_film) -> Path:
    return write_film(tmp_path / "chest.png", 120, 90, 8)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("shape", [(120, 90), (300, 400)])
def test_png_in_gives_png_of_its_size_and_depth_exact_outside(paint, write_film, tmp_path, bits, shape):
    source = write_film(tmp_path / "chest.png", *shape, bits)
    out, region, record = paint(source, "--finding", "Pleural Effusion", "--box", "20,30,70,81")
    before, after = Image.open(source), Image.open(out)
    assert (after.mode, after.size) == (before.mode, before.size)
    old, new = np.array(before), np.array(after)
    np.testing.assert_array_equal(np.argwhere(region).min(0), [30, 20])
    np.testing.assert_array_equal(np.argwhere(region).max(0), [80, 69])
    np.testing.assert_array_equal(new[~region], old[~region])
    assert (new[region] != old[region]).mean() > 0.9
    assert record["finding"] == ["Effusion"]
    assert record["region"]["box"] == [20, 30, 70, 81]
    assert record["image_sha256"] == sha256_file(out)
    assert record["source_sha256"] == sha256_file(source)


@pytest.mark.parametrize("bits", [8, 16])
def test_an_inpainter_of_latents_is_exact_outside_too(paint, write_film, tmp_path, bits):
    source = write_film(tmp_path / "chest.png", 150, 130, bits)
    out, region, _ = paint(source, "--finding", "Nodule", "--box", "21,33,70,81", checkpoint="latent.ckpt")
    old, new = (np.array(Image.open(path)) for path in (source, out))
    assert new.dtype == old.dtype
    np.testing.assert_array_equal(new[~region], old[~region])
    assert (new[region] != old[region]).mean() > (0.5 if bits == 8 else 0.9)


def test_an_inpainter_of_latents_is_exact_outside_in_dicom(paint, film, write_dicom, tmp_path):
    pixels = (film(130, 110) * 4095).astype(np.uint16)
    source = write_dicom(tmp_path / "chest.dcm", pixels)
    options = ("--finding", "Nodule", "--box", "20,30,71,79", "--strength", "0.8")
    out, region, _ = paint(source, *options, out="out.dcm", checkpoint="latent.ckpt")
    made = pydicom.dcmread(out).pixel_array
    np.testing.assert_array_equal(made[~region], pixels[~region])
    assert (made[region] != pixels[region]).mean() > 0.5


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_dicom_in_gives_a_derived_dicom_without_identity(paint, film, write_dicom, tmp_path, dtype, syntax):
    pixels = (film(130, 110) * 4095 - (2048 if dtype == np.int16 else 0)).astype(dtype)
    window = {"WindowCenter": 0} if dtype == np.int16 else {}
    source = write_dicom(tmp_path / "chest.dcm", pixels, syntax=syntax, **window)
    out, region, record = paint(source, "--finding", "Nodule", "--box", "20,30,70,80", out="out.dcm")
    old, new = pydicom.dcmread(source), pydicom.dcmread(out)
    np.testing.assert_array_equal(new.pixel_array[~region], pixels[~region])
    assert (new.pixel_array[region] != pixels[region]).mean() > 0.9
    same = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter")
    for name in (*same, "WindowWidth", "PhotometricInterpretation", "PixelSpacing", "SOPClassUID", "Modality"):
        assert new[name].value == old[name].value, name
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert new[name].value != old[name].value, name
    assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
    assert new.ImageType[0] == "DERIVED"
    assert "SYNTHETIC" in new.ImageType
    assert new.SyntheticData == "YES"
    assert new.SoftwareVersions.startswith("cxrsynth")
    assert "Nodule" in new.DerivationDescription
    assert new.PatientIdentityRemoved == "YES"
    for trace in (b"Doe", b"4711", b"19700101", old.SOPInstanceUID.encode(), old.StudyInstanceUID.encode()):
        assert trace not in out.read_bytes()
    again = read_stored(out)
    np.testing.assert_array_equal(again.curve, read_stored(source).curve)
    assert record["finding"] == ["Nodule"]


def test_dicom_may_be_written_as_png_of_its_stored_values(paint, film, write_dicom, tmp_path):
    source = write_dicom(tmp_path / "chest.dcm", (film(130, 110) * 4095).astype(np.uint16))
    out, region, _ = paint(source, "--finding", "Nodule", "--box", "20,30,70,80")
    before, after = read_stored(source), read_stored(out)
    assert (after.photometric, after.bits) == ("MONOCHROME1", 12)
    np.testing.assert_array_equal(after.stored[~region], before.stored[~region])
    np.testing.assert_array_equal(after.display()[~region], before.display()[~region])


DICOM = [
    *("CR-MONO1-10-chest", "CR-ModalitySequenceLUT", "NIH_DX_mono2_8bit_implicit", "RG1_J2KI", "RG1_J2KR"),
    *("RG1_UNCR", "RG3_J2KR", "RSNA_CR_mono1_tag_8bit_jpeg", "RSNA_CR_mono2_8bit_jpeg"),
]


@pytest.mark.parametrize("name", DICOM)
def test_awkward_dicom_files_keep_their_stored_values(shared, paint, name):
    source = shared / "dicom" / f"{name}.dcm"
    out, region, _ = paint(source, "--finding", "Effusion", out="out.dcm")
    before, after = read_stored(source), read_stored(out)
    np.testing.assert_array_equal(after.stored[~region], before.stored[~region])
    assert (after.stored[region] != before.stored[region]).mean() > 0.2
    assert (after.photometric, after.bits, after.stored.dtype) == (before.photometric, before.bits, before.stored.dtype)
    plain = pydicom.dcmread(out)  # any reader opens it, without force and without a decoder
    assert not plain.file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(plain.pixel_array, after.stored)
    lossy = name.startswith("RSNA") or name.endswith("J2KI")
    assert (plain.get("LossyImageCompression") == "01") == lossy


def test_a_decoder_that_is_missing_is_one_sentence(shared, refused, monkeypatch):
    from pydicom.pixels.decoders import JPEG2000LosslessDecoder

    source = shared / "dicom" / "RG3_J2KR.dcm"
    monkeypatch.setattr(JPEG2000LosslessDecoder, "_available", {})
    refused("--image", str(source), "--finding", "Nodule", "--full", words=("RG3_J2KR.dcm", "pylibjpeg"), out="out.dcm")


def test_without_a_place_the_maps_of_training_say_where(paint, chest):
    _, region, record = paint(chest, "--finding", "effusion")
    rows, columns = np.nonzero(region)
    # the fixture's lesion lies at rows 40-60 and columns 5-25 of 64, in the square of 120 pixels around the film
    assert abs(rows.mean() - 50 / 64 * 120) < 8
    assert abs(columns.mean() - (15 / 64 * 120 - 15)) < 8
    assert record["region"]["from"] == "usual place"


def test_a_mask_and_the_whole_image(paint, chest, tmp_path):
    mask = np.zeros((120, 90), np.uint8)
    mask[10:40, 20:60] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    _, region, _ = paint(chest, "--finding", "Nodule", "--mask", str(tmp_path / "mask.png"))
    np.testing.assert_array_equal(region, mask == 1)
    out, region, _ = paint(chest, "--finding", "Nodule", "--full", "--overwrite")
    assert region.all()
    assert (np.array(Image.open(out)) != np.array(Image.open(chest))).mean() > 0.9


def test_a_map_is_carried_over_from_an_exemplar(paint, chest, tmp_path):
    out, region, record = paint(chest, "--finding", "Nodule", "--map-from", str(chest))
    assert 0 < region.mean() < 0.9
    assert record["region"]["registration"]["ncc"] > 0.99
    assert record["region"]["exemplar_sha256"] == sha256_file(chest)
    assert set(record["checkpoints"]) == {"inpainting", "attention"}
    new, old = np.array(Image.open(out)), np.array(Image.open(chest))
    np.testing.assert_array_equal(new[~region], old[~region])


def test_seed_strength_removal_and_patient_change_the_inside_only(paint, chest):
    place = ("--box", "20,30,70,80", "--overwrite", "--view", "PA", "--sex", "F", "--age", "61")
    results = []
    for options in (
        ("--finding", "Nodule"),
        ("--finding", "Nodule"),
        ("--finding", "Nodule", "--seed", "1"),
        ("--finding", "Nodule", "--strength", ".5"),
        ("--finding", "Effusion"),
        ("--finding", "Nodule|Effusion"),
        ("--remove",),
        ("--finding", "Nodule", "--age", "20"),
    ):
        out, region, record = paint(chest, *place, *options, checkpoint="told.ckpt")
        results.append(np.array(Image.open(out)))
    assert record["condition"]["age"] == 20
    assert np.array_equal(results[0], results[1])
    old = np.array(Image.open(chest))
    for i, result in enumerate(results[1:]):
        np.testing.assert_array_equal(result[~region], old[~region])
        assert all(not np.array_equal(result, other) for other in results[i + 2 :])
    whole, half = (np.abs(results[i].astype(int) - old)[region].mean() for i in (0, 3))
    assert half < whole


def test_strength_0_is_the_source(paint, chest):
    out, *_ = paint(chest, "--finding", "Nodule", "--box", "20,30,70,80", "--strength", "0")
    np.testing.assert_array_equal(np.array(Image.open(out)), np.array(Image.open(chest)))


BAD = {
    "unknown finding": (["--finding", "Efusion", "--full"], ("'Efusion'", "'Effusion'")),
    "nothing asked": (["--full"], ("finding",)),
    "no place": (["--remove"], ("where",)),
    "no average map": (["--finding", "Nodule"], ("average map", "'Nodule'", "box")),
    "box outside": (["--finding", "Nodule", "--box", "0,0,91,20"], ("0,0,91,20", "90 x 120")),
    "box of negative": (["--finding", "Nodule", "--box=-1,0,9,20"], ("-1,0,9,20", "leaves")),
    "empty box": (["--finding", "Nodule", "--box", "5,5,5,20"], ("5,5,5,20", "empty")),
    "box of three": (["--finding", "Nodule", "--box", "5,5,20"], ("four",)),
    "box of words": (["--finding", "Nodule", "--box", "left"], ("'left'",)),
    "two places": (["--finding", "Nodule", "--box", "5,5,9,9", "--full"], ("box and full",)),
    "text it cannot read": (["--finding", "Nodule", "--full", "--text", "large"], ("text", "without it")),
    "strength": (["--finding", "Nodule", "--full", "--strength", "1.5"], ("strength", "1.5")),
    "steps": (["--finding", "Nodule", "--full", "--steps", "0"], ("steps", "0")),
    "solver": (["--finding", "Nodule", "--full", "--solver", "rk5"], ("'rk5'",)),
    "seed": (["--finding", "Nodule", "--full", "--seed", "-1"], ("seed", "-1")),
    "guidance": (["--finding", "Nodule", "--full", "--guidance", "nan"], ("guidance", "nan")),
    "device": (["--finding", "Nodule", "--full", "--device", "abacus"], ("'abacus'",)),
    "no mask": (["--finding", "Nodule", "--mask", "nowhere.png"], ("nowhere.png",)),
    "age in words": (["--finding", "Nodule", "--full", "--age", "old"], ("age", "'old'", "--help")),
    "strange option": (["--finding", "Nodule", "--full", "--colour", "red"], ("--colour", "--help")),
    "remove and text": (["--remove", "--full", "--text", "x"], ("remove and text",)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_give_one_sentence_and_leave_nothing(refused, chest, name):
    options, words = BAD[name]
    refused("--image", str(chest), *options, words=words)


def test_patients_out_of_range_are_refused(refused, chest, checkpoints):
    asked = ["--image", str(chest), "--finding", "Nodule", "--full"]
    for options, word in ((["--age", "400"], "400"), (["--sex", "X"], "'X'"), (["--view", "LL"], "'LL'")):
        refused(*asked, *options, words=(word,), checkpoint=checkpoints / "told.ckpt")


def test_bad_masks_are_refused(refused, chest, tmp_path):
    Image.fromarray(np.zeros((120, 90), np.uint8)).save(tmp_path / "black.png")
    Image.fromarray(np.full((90, 120), 255, np.uint8)).save(tmp_path / "turned.png")
    asked = ["--image", str(chest), "--finding", "Nodule", "--mask"]
    refused(*asked, str(tmp_path / "black.png"), words=("black.png", "no pixel"))
    refused(*asked, str(tmp_path / "turned.png"), words=("turned.png", "120 x 90", "90 x 120"))


def test_images_that_cannot_be_edited_are_refused(refused, film, write_dicom, tmp_path):
    asked = ["--finding", "Nodule", "--full", "--image"]
    refused(*asked, str(tmp_path / "none.png"), words=("none.png", "No such file"))
    (tmp_path / "text.png").write_text("not an image")
    refused(*asked, str(tmp_path / "text.png"), words=("text.png",))
    colours = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "colour.png")
    refused(*asked, str(tmp_path / "colour.png"), words=("colour.png", "in colour"))
    whole = write_dicom(tmp_path / "whole.dcm", (film(40, 40) * 4095).astype(np.uint16)).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-500])
    refused(*asked, str(tmp_path / "cut.dcm"), words=("cut.dcm", "damaged"), out="out.dcm")


def test_outputs_are_never_lost_and_inputs_never_written_over(refused, chest, tmp_path):
    asked = ["--image", str(chest), "--finding", "Nodule", "--full"]
    refused(*asked, words=("chest.png", "another file"), out="chest.png")
    refused(*asked, "--overwrite", words=("chest.png", "another file"), out="chest.png")
    (tmp_path / "out.json").write_text("{}")
    refused(*asked, words=("out.json", "there already"))
    (tmp_path / "out.json").unlink()
    refused(*asked, words=("out.dcm", "no DICOM"), out="out.dcm")
    refused(*asked, words=("out.jpg", ".png"), out="out.jpg")
    (tmp_path / "file").write_text("in the way")
    refused(*asked, words=("cannot write",), out="file/out.png")


def test_bad_checkpoints_are_refused(refused, chest, checkpoints, tmp_path):
    asked = ["--image", str(chest), "--finding", "Nodule", "--full"]
    content = (checkpoints / "inpainting.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(content[: len(content) // 2])
    diverged = torch.load(checkpoints / "inpainting.ckpt", weights_only=True)
    for name, weight in diverged["state_dict"].items():
        if name.startswith("average.module") and weight.is_floating_point():
            weight.fill_(float("nan"))
    torch.save(diverged, tmp_path / "nan.ckpt")
    refused(*asked, words=("half.ckpt", "damaged"), checkpoint=tmp_path / "half.ckpt")
    refused(*asked, words=("nan.ckpt", "not finite"), checkpoint=tmp_path / "nan.ckpt")
    refused(*asked, words=("attention.ckpt", "not an inpainter's"), checkpoint=checkpoints / "attention.ckpt")
    refused(*asked, words=("none.ckpt", "does not exist"), checkpoint=tmp_path / "none.ckpt")


def test_exemplars_that_cannot_be_used_are_refused(refused, chest, write_film, checkpoints, tmp_path):
    asked = ["--image", str(chest), "--finding", "Nodule", "--map-from"]
    Image.fromarray(np.zeros((120, 90), np.uint8)).save(tmp_path / "black.png")
    refused(*asked, str(tmp_path / "black.png"), words=("black.png", "correlation"))
    (tmp_path / "alone.ckpt").write_bytes((checkpoints / "inpainting.ckpt").read_bytes())
    refused(*asked, str(chest), words=("attention.ckpt",), checkpoint=tmp_path / "alone.ckpt")
    both = ["--attention", str(checkpoints / "inpainting.ckpt")]
    refused(*asked, str(chest), *both, words=("not a GLoRI",))
