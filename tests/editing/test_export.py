"""`cxrsynth data export`: files to hand on, judged by other readers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
import yaml
from PIL import Image
from pydicom.uid import SecondaryCaptureImageStorage

from cxrsynth.cli import main
from cxrsynth.data import Manifest
from cxrsynth.data.reading import read_stored
from cxrsynth.files import sha256_file

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
KINDS = ("eight", "twelve", "unsigned", "signed")


@pytest.fixture(scope="module")
def run(tmp_path_factory, film, write_film, write_dicom) -> Path:
    """Images painted into sources of four kinds: PNG of 8 and 12 bits, DICOM of unsigned and signed values."""
    folder = tmp_path_factory.mktemp("export")
    archive, out = folder / "archive", folder / "run"
    archive.mkdir()
    write_film(archive / "eight.png", 60, 50, 8)
    write_film(archive / "twelve.png", 60, 50, 12)
    pixels = film(60, 50) * 4000
    write_dicom(archive / "unsigned.dcm", pixels.astype(np.uint16))
    write_dicom(
        archive / "signed.dcm",
        (pixels - 2000).astype(np.int16),
        WindowCenter=0,
        PhotometricInterpretation="MONOCHROME2",
    )
    names = sorted(path.name for path in archive.iterdir())
    table = pd.DataFrame({"image_id": [Path(n).stem for n in names], "path": names, "labels": "No Finding"})
    table = table.assign(patient_id=[f"DOE-{k}" for k in range(4)], view="PA", sex="F", age=41.5)
    table.to_csv(archive / "metadata.csv", index=False)
    region = np.zeros((60, 50), np.uint8)
    region[20:30, 10:25] = 255
    records = []
    for name in names:
        stem = Path(name).stem
        record = {"id": f"syn-{stem}", "finding": "Nodule", "source_id": stem, "source_path": name, "exemplar_id": "e"}
        record |= {kind: f"{kind}s/syn-{stem}.png" for kind in ("image", "region")}
        stored = read_stored(archive / name)
        stored.paste(np.full((60, 50), 0.7, np.float32), region > 0).save_png(out / record["image"])
        (out / "regions").mkdir(exist_ok=True)
        Image.fromarray(region).save(out / record["region"])
        record |= {f"{kind}_sha256": sha256_file(out / record[kind]) for kind in ("image", "region")}
        records.append({**record, "source_sha256": sha256_file(archive / name), "accepted": stem != "eight"})
    (out / "provenance.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (out / "config.yaml").write_text(yaml.safe_dump({"manifest": "../archive/metadata.csv"}))
    return out


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dicom")
    main(["data", "export", str(run), str(out), "--unfiltered"])
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_stored_values_outside_the_region_are_the_sources_in_another_reader(run, exported, kind):
    source = next((run.parent / "archive").glob(f"{kind}.*"))
    read = sitk.ReadImage(str(exported / "images" / f"syn-{kind}.dcm"))
    pixels = sitk.GetArrayFromImage(read).squeeze()
    if kind == "unsigned":
        pixels = 4095 - pixels  # GDCM turns MONOCHROME1 over
    region = np.array(Image.open(run / "regions" / f"syn-{kind}.png")) > 0
    if source.suffix == ".png":
        before = np.array(Image.open(source)).astype(np.int64)
    else:
        before = pydicom.dcmread(source).pixel_array.astype(np.int64)
    np.testing.assert_array_equal(pixels[~region], before[~region])
    assert (pixels[region] != before[region]).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_displayed_as_the_image_of_the_run(run, exported, kind):
    png, dicom = read_stored(run / "images" / f"syn-{kind}.png"), read_stored(exported / "images" / f"syn-{kind}.dcm")
    np.testing.assert_allclose(dicom.display(), png.display(), atol=1e-4)
    assert dicom.bits == png.bits or kind == "signed"


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_that_it_is_synthetic_and_holds_no_identity(run, exported, kind):
    path = exported / "images" / f"syn-{kind}.dcm"
    file = pydicom.dcmread(path)
    assert file.ImageType[:1] == ["DERIVED"]
    assert "SYNTHETIC" in file.ImageType
    assert (file.SyntheticData, file.PatientIdentityRemoved) == ("YES", "YES")
    assert "Nodule" in file.DerivationDescription
    content = path.read_bytes()
    source = next((run.parent / "archive").glob(f"{kind}.*"))
    traces = [b"Doe", b"DOE", b"4711", b"19700101"]
    if source.suffix == ".dcm":
        before = pydicom.dcmread(source)
        traces += [before[n].value.encode() for n in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")]
    assert not [trace for trace in traces if trace in content]


@pytest.mark.parametrize("kind", KINDS)
def test_pydicom_finds_no_fault_in_file_meta_or_values(exported, kind):
    path = exported / "images" / f"syn-{kind}.dcm"
    file = pydicom.dcmread(path)
    pydicom.dataset.validate_file_meta(file.file_meta, enforce_standard=True)
    for element in file.iterall():
        if element.VR not in ("OB", "OW", "SQ"):
            for value in element.value if element.VM > 1 else [element.value]:
                text = str(value) if element.VR in ("IS", "DS", "PN") else value
                pydicom.valuerep.validate_value(element.VR, text, pydicom.config.RAISE)
    assert not [e for e in file.iterall() if e.tag.is_private]


@pytest.mark.parametrize("kind", KINDS)
def test_every_required_element_of_its_modules_is_there(run, exported, kind):
    """By the tables of the DICOM standard that come with highdicom: types 1 and 2 of the mandatory modules."""
    standard = pytest.importorskip("highdicom._standard_utils")
    iods, modules = standard.get_iod_module_map(), standard.get_module_attribute_map()

    def missing(file: pydicom.Dataset, iod: str) -> set[str]:
        mandatory = [module["key"] for module in iods[iod] if module["usage"] == "M"]
        needed = {(a["keyword"], a["type"]) for m in mandatory for a in modules[m] if not a["path"]}
        absent = {name for name, kind in needed if kind in ("1", "2") and name not in file}
        return absent | {name for name, kind in needed if kind == "1" and name in file and file[name].is_empty}

    file = pydicom.dcmread(exported / "images" / f"syn-{kind}.dcm")
    if kind in ("eight", "twelve"):
        assert file.SOPClassUID == SecondaryCaptureImageStorage
        assert missing(file, "secondary-capture-image") == set()
    else:
        source = pydicom.dcmread(run.parent / "archive" / f"{kind}.dcm")
        assert missing(file, "digital-x-ray-image") <= missing(source, "digital-x-ray-image")


def test_the_folder_is_a_manifest_without_patients_or_sources(exported):
    manifest = Manifest.load(exported / "metadata.csv")
    assert manifest.table["labels"].tolist() == ["Nodule"] * 4
    assert set(manifest.table["patient_id"]) == {""}
    assert "source_id" not in manifest.table
    assert manifest.path("syn-signed").is_file()


def test_exported_again_the_files_are_the_same(run, exported, tmp_path):
    main(["data", "export", str(run), str(tmp_path / "again"), "--unfiltered"])
    again = {path.name: sha256_file(path) for path in (tmp_path / "again").rglob("*.*") if path.is_file()}
    assert again == {path.name: sha256_file(path) for path in exported.rglob("*.*") if path.is_file()}


@pytest.mark.parametrize("format", ["coco", "yolo", "yolo-segmentation"])
def test_detection_formats_hold_the_accepted_images_and_their_labels(run, tmp_path, format):
    main(["data", "export", str(run), str(tmp_path), "--format", format])
    names = sorted(path.stem for path in (tmp_path / "images").iterdir())
    assert names == ["syn-signed", "syn-twelve", "syn-unsigned"]
    if format == "coco":
        coco = json.loads((tmp_path / "coco.json").read_text())
        assert [image["file_name"] for image in coco["images"]] == [f"images/{name}.png" for name in names]
        assert all((tmp_path / image["file_name"]).is_file() for image in coco["images"])
        assert {tuple(a["bbox"]) for a in coco["annotations"]} == {(10, 20, 15, 10)}
    else:
        lines = (tmp_path / "labels" / "syn-twelve.txt").read_text().splitlines()
        assert len(lines) == 1
        assert len(lines[0].split()) == 5 if format == "yolo" else len(lines[0].split()) > 7


def test_an_image_that_has_changed_is_not_exported(run, tmp_path, capsys):
    shutil.copytree(run.parent, tmp_path / "copy")
    (tmp_path / "copy" / "run" / "images" / "syn-twelve.png").write_bytes(b"half")
    with pytest.raises(SystemExit):
        main(["data", "export", str(tmp_path / "copy" / "run"), str(tmp_path / "out")])
    assert "syn-twelve.png has changed" in capsys.readouterr().err
