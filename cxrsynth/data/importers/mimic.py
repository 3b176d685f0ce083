"""MIMIC-CXR-JPG: `mimic-cxr-2.0.0-{metadata,chexpert,split}.csv.gz`, images in `files/pNN/pNNNNNNNN/sNNNNNNNN/`."""

from pathlib import Path

import pandas as pd

from cxrsynth.data.importers.archive import Archive, find_table, read_table, sex, uncertain_labels
from cxrsynth.data.labels import CHEXPERT_14

OBSERVATIONS = ("No Finding", *CHEXPERT_14)
STUDY = ["subject_id", "study_id"]
NAME = "mimic-cxr-2.0.0-{}.csv"


def read_mimic(source: Path) -> Archive:
    """Read MIMIC-CXR-JPG (Johnson et al. 2019), or MIMIC-CXR's DICOM files with the same tables.

    An observation that is marked uncertain (-1) is unknown; one that the report does not mention (blank) is absent.
    Reports (`s*.txt` beside a study's folder) become `text`; MIMIC-IV's `patients.csv`, if there, gives sex and age.
    """
    images = read_table(source, NAME.format("metadata"), columns=("dicom_id", *STUDY, "ViewPosition"))
    studies = read_table(source, NAME.format("chexpert"), columns=STUDY)
    for observation in set(OBSERVATIONS) - set(studies.columns):
        studies[observation] = ""
    studies["labels"], studies["unknown"] = uncertain_labels(studies, OBSERVATIONS)
    images = images.merge(studies[[*STUDY, "labels", "unknown"]], on=STUDY, how="left")
    if find_table(source, NAME.format("split")):
        splits = read_table(source, NAME.format("split"), columns=("dicom_id", "split"))
        images = images.merge(splits[["dicom_id", "split"]], on="dicom_id", how="left")
    else:
        images["split"] = ""
    places = [_place(*row) for row in images[[*STUDY, "dicom_id"]].itertuples(index=False)]
    sexes, ages = _people(source, images)
    table = pd.DataFrame(
        {
            "image_id": images.dicom_id,
            "path": [next((p for p in place if (source / p).is_file()), "") for place in places],
            "labels": images.labels.fillna(""),
            "unknown": images.unknown.fillna(""),
            "patient_id": "p" + images.subject_id,
            "view": images.ViewPosition,
            "sex": sexes,
            "age": ages,
            "text": [_report(source / Path(place[0]).parent) for place in places],
            "site": "MIMIC",
            "split": images.split.fillna(""),
        }
    )
    return Archive(table)


def _place(subject: str, study: str, name: str) -> tuple[str, str]:
    folder = f"files/p{subject[:2]}/p{subject}/s{study}"
    return f"{folder}/{name}.jpg", f"{folder}/{name}.dcm"


def _report(study: Path) -> str:
    path = study.with_suffix(".txt")
    return " ".join(path.read_text(errors="replace").split()) if path.is_file() else ""


def _people(source: Path, images: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Sex, and age at the study: MIMIC-IV gives an age in one (shifted) year; studies have shifted dates too."""
    if find_table(source, "patients.csv") is None or "StudyDate" not in images:
        return pd.Series("", index=images.index), pd.Series(float("nan"), index=images.index)
    columns = ("subject_id", "gender", "anchor_age", "anchor_year")
    people = read_table(source, "patients.csv", columns=columns).set_index("subject_id")
    people = people.reindex(images.subject_id).reset_index(drop=True)
    year = pd.to_numeric(images.StudyDate.str[:4], errors="coerce")
    ages = pd.to_numeric(people.anchor_age) + year - pd.to_numeric(people.anchor_year)
    return people.gender.fillna("").map(sex), ages.where(ages.between(0, 120))
