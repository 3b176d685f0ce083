"""Tiny made-up copies of each archive's published layout."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cxrsynth.data import Manifest
from cxrsynth.data.commands import check, import_archive, split
from cxrsynth.data.importers.archive import age, sex
from cxrsynth.errors import UserError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 256, (20, 16)).astype(np.uint8)).save(path)


def imported(kind: str, source: Path, **options) -> Manifest:
    import_archive(kind, str(source), **options)
    return Manifest.load(source / "manifest.csv")


def test_nih(tmp_path):
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
        "OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y\n"
        "00000001_000.png,Cardiomegaly|Emphysema,0,1,57,M,PA,2682,2749,0.143,0.143\n"
        "00000002_000.png,No Finding,0,2,414,F,AP,2500,2048,0.168,0.168\n"
        "00000003_000.png,Hernia,0,3,75,F,PA,2500,2048,0.168,0.168\n"
    )
    (tmp_path / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Cardiomegaly,225.0,547.0,86.7,79.1,,,\n"
        "00000003_000.png,Infiltrate,1,2,3,4,,,\n"
    )
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n")
    picture(tmp_path / "images_001" / "images" / "00000001_000.png")
    picture(tmp_path / "images_002" / "images" / "00000002_000.png")
    manifest = imported("nih", tmp_path)
    assert manifest.table.image_id.tolist() == ["00000001_000", "00000002_000"]
    assert manifest.table.path[1] == "images_002/images/00000002_000.png"
    assert manifest.table.patient_id.tolist() == ["NIH_00001", "NIH_00002"]
    assert manifest.table.split.tolist() == ["", "test"]
    assert manifest.table.age[0] == 57
    assert np.isnan(manifest.table.age[1])
    np.testing.assert_allclose(manifest.boxes[["x_min", "y_min", "x_max", "y_max"]], [[225, 547, 311.7, 626.1]])
    assert manifest.healthy.tolist() == [False, True]


VINDR = """image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
a,Cardiomegaly,3,R8,10,20,30,40
a,Cardiomegaly,3,R9,11,21,31,41
a,Nodule/Mass,8,R8,1,2,3,4
a,No finding,14,R10,,,,
b,No finding,14,R1,,,,
b,No finding,14,R2,,,,
b,Atelectasis,1,R3,5,6,7,8
c,No finding,14,R1,,,,
c,No finding,14,R2,,,,
c,No finding,14,R3,,,,
d,Effusion,10,R1,5,6,7,8
d,ILD,5,R2,5,6,7,8
d,No finding,14,R3,,,,
"""


@pytest.mark.parametrize(
    ("rule", "labels", "unknown"),
    [
        ("any", ["Cardiomegaly|Nodule/Mass", "Atelectasis", "No Finding", "Effusion|ILD"], ["", "", "", ""]),
        ("majority", ["Cardiomegaly", "No Finding", "No Finding", ""], ["", "", "", ""]),
        ("consensus", ["", "", "No Finding", ""], ["Cardiomegaly|Nodule/Mass", "Atelectasis", "", "Effusion|ILD"]),
    ],
)
def test_vindr_rows_are_readings_and_not_images(tmp_path, rule, labels, unknown):
    (tmp_path / "train.csv").write_text(VINDR)
    for name in "abcd":
        picture(tmp_path / "train" / f"{name}.png")
    manifest = imported("vindr", tmp_path, rule=rule)
    assert manifest.table.image_id.tolist() == ["a", "b", "c", "d"]
    assert manifest.table.labels.tolist() == labels
    assert manifest.table.unknown.tolist() == unknown
    assert manifest.table.readers.tolist() == ["R10|R8|R9", "R1|R2|R3", "R1|R2|R3", "R1|R2|R3"]
    assert manifest.table.abnormal_votes.tolist() == ["2", "1", "0", "2"]
    assert len(manifest.boxes) == 6


def test_vindr_of_physionet(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "annotations_train.csv").write_text(
        "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\na,R1,Atelectasis,1,2,3,4\na,R2,No finding,,,,\n"
    )
    (folder / "image_labels_train.csv").write_text(
        "image_id,rad_id,Atelectasis,Pneumonia,No finding\na,R1,1,1,0\na,R2,0,1,0\n"
    )
    (folder / "annotations_test.csv").write_text("image_id,class_name,x_min,y_min,x_max,y_max\nt,No finding,,,,\n")
    (folder / "image_labels_test.csv").write_text("image_id,Atelectasis,Pneumonia,No finding\nt,0,0,1\n")
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "test" / "t.png")
    manifest = imported("vindr", tmp_path)
    assert manifest.table.labels.tolist() == ["Pneumonia", "No Finding"]
    assert manifest.table.split.tolist() == ["", "test"]


CHEXPERT_COLUMNS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def test_chexpert(tmp_path):
    name = "CheXpert-v1.0-small"
    head = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT_COLUMNS}\n"
    (tmp_path / "train.csv").write_text(
        head
        + f"{name}/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0\n"
        + f"{name}/train/patient00002/study2/view2_lateral.jpg,Male,87,Lateral,,,,-1.0,1.0,,-1.0,,,,,1.0,,,\n"
    )
    (tmp_path / "valid.csv").write_text(
        head
        + "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,PA"
        + ",0.0" * 13
        + ",1.0\n"
    )
    for name in (
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00002/study2/view2_lateral.jpg",
        "valid/patient64541/study1/view1_frontal.jpg",
    ):
        picture(tmp_path / name)
    manifest = imported("chexpert", tmp_path)
    assert manifest.table.image_id[0] == "patient00001_study1_view1_frontal"
    assert manifest.table["view"].tolist() == ["AP", "lateral", "PA"]
    assert manifest.table.sex.tolist() == ["F", "M", "M"]
    assert manifest.table.split.tolist() == ["", "", "val"]
    assert manifest.table.labels[1] == "Lung Opacity|Pleural Effusion"
    targets = manifest.targets(["Cardiomegaly", "Pleural Effusion", "Pneumonia"])[1]
    assert targets[0].isnan()
    assert targets[1:].tolist() == [1, 0]


def test_mimic(tmp_path):
    observations = sorted(CHEXPERT_COLUMNS.split(","))
    values = {"Edema": "1.0", "Pneumonia": "-1.0"}
    pd.DataFrame(
        [
            {"subject_id": "10000032", "study_id": "50414267"} | {o: values.get(o, "") for o in observations},
            {"subject_id": "10000764", "study_id": "57375967"}
            | {o: "1.0" if o == "No Finding" else "" for o in observations},
        ]
    ).to_csv(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False)
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text(
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime\n"
        "aaa,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506,213014.531\n"
        "bbb,10000764,57375967,CHEST,AP,3056,2544,21800626,165500.312\n"
    )
    (tmp_path / "mimic-cxr-2.0.0-split.csv").write_text(
        "dicom_id,study_id,subject_id,split\naaa,50414267,10000032,train\nbbb,57375967,10000764,validate\n"
    )
    (tmp_path / "patients.csv").write_text(
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n10000032,F,52,2180,2014 - 2016,\n"
    )
    picture(tmp_path / "files/p10/p10000032/s50414267/aaa.jpg")
    picture(tmp_path / "files/p10/p10000764/s57375967/bbb.jpg")
    (tmp_path / "files/p10/p10000032/s50414267.txt").write_text(" FINDINGS:\n  Mild edema. ")
    manifest = imported("mimic", tmp_path)
    first, second = manifest.table.to_dict("records")
    assert (first["labels"], first["unknown"]) == ("Edema", "Pneumonia")
    assert (first["sex"], first["age"], first["text"]) == ("F", 52, "FINDINGS: Mild edema.")
    assert (second["labels"], second["split"], second["patient_id"]) == ("No Finding", "validate", "p10000764")
    assert np.isnan(second["age"])
    assert manifest.path("bbb").exists()


def test_padchest(tmp_path):
    (tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv").write_text(
        ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Report,Labels\n"
        "0,x_02-001.png,0,20140915,s1,839860488694,1930.0,F,PA,sin hallazgos .,['normal']\n"
        "1,x_02-002.png,1,20140915,s2,839860488695,1970.0,M,L,derram ,\"['pleural effusion', ' COPD signs', '']\"\n"
        "2,x_02-003.png,1,20140915,s3,839860488696,1970.0,M,AP,.,['unchanged']\n"
    )
    picture(tmp_path / "0" / "x_02-001.png")
    picture(tmp_path / "1" / "x_02-002.png")
    picture(tmp_path / "1" / "x_02-003.png")
    manifest = imported("padchest", tmp_path)
    assert manifest.table.labels.tolist() == ["Normal", "Effusion|COPD signs", ""]
    assert manifest.table["view"].tolist() == ["PA", "lateral", "AP"]
    assert manifest.table.age.tolist() == [84, 44, 44]
    assert manifest.path("x_02-002").parent.name == "1"


def test_folder(tmp_path):
    for name in ("Normal/a.png", "Mass/a.jpg", "Mass/deeper/b.png", ".hidden/c.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    manifest = imported("folder", tmp_path, labels_from_folders=True)
    assert manifest.table.image_id.tolist() == ["Mass_a", "Mass_deeper_b", "Normal_a"]
    assert manifest.table.labels.tolist() == ["Mass", "deeper", "Normal"]


def test_dicom_folder_carries_no_identity(tmp_path):
    for number, modality in enumerate(("DX", "CT")):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", f"1.2.{number}"
        dataset.PatientName, dataset.PatientID, dataset.PatientSex, dataset.PatientAge = (
            "Doe^Jane",
            "MRN123",
            "F",
            "042Y",
        )
        dataset.Modality, dataset.ViewPosition, dataset.Rows, dataset.Columns = modality, "PA", 2, 2
        dataset.save_as(tmp_path / f"image{number}.dcm", enforce_file_format=True)
    (tmp_path / "README").write_text("not DICOM")
    manifest = imported("dicom", tmp_path)
    assert manifest.table[["image_id", "view", "sex", "age"]].values.tolist() == [["image0", "PA", "F", 42]]
    assert manifest.table.patient_id[0].startswith("P")
    text = (tmp_path / "manifest.csv").read_text()
    assert "MRN123" not in text
    assert "Doe" not in text


def test_real_dicom_folder(shared, tmp_path):
    with pytest.raises(UserError, match="lies outside"):
        import_archive("dicom", str(shared / "dicom"), out=str(tmp_path / "manifest.csv"))
    sentence = import_archive("dicom", str(shared / "dicom"), out=str(tmp_path / "manifest.csv"), copy=True)
    assert "9 images" in sentence
    manifest = Manifest.load(tmp_path / "manifest.csv")
    assert manifest.path("RG1_UNCR").exists()


def test_commands(patients, tmp_path, capsys):
    sentence = split(str(patients), str(tmp_path / "splits.csv"), (0.5, 0.25, 0.25), seed=1)
    assert sentence.endswith("30 train, 16 val, 14 test")
    check(str(patients), str(tmp_path / "splits.csv"), out=str(tmp_path / "report.json"))
    assert "60 images of 30 patients" in capsys.readouterr().out
    assert (tmp_path / "report.json").stat().st_size > 100


def test_import_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        import_archive("nih", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"has no Data_Entry_2017_v2020\.csv or Data_Entry_2017\.csv"):
        import_archive("nih", str(tmp_path))
    (tmp_path / "Data_Entry_2017.csv").write_text("Image Index,Finding Labels\nx.png,Mass\n")
    with pytest.raises(UserError, match="lacks the column 'Patient ID'"):
        import_archive("nih", str(tmp_path))
    with pytest.raises(UserError, match="none of the 0 images"):
        import_archive("folder", str(tmp_path))
    with pytest.raises(UserError, match="kind is 'mars'"):
        import_archive("mars", str(tmp_path))  # type: ignore[arg-type]
    picture(tmp_path / "a.png")
    import_archive("folder", str(tmp_path))
    with pytest.raises(UserError, match="is there already"):
        import_archive("folder", str(tmp_path))
    import_archive("folder", str(tmp_path), overwrite=True)


def test_ages_and_sexes():
    assert [age(v) for v in ("58", "058Y", "018M", "3D")] == [58, 58, 1.5, 3 / 365.25]
    assert all(np.isnan(age(v)) for v in ("", "414", "old"))
    assert [sex(v) for v in ("Female", "m", "O", "")] == ["F", "M", "", ""]
