"""A folder of PNG or JPEG images, and a folder of DICOM files."""

import hashlib
from pathlib import Path

import pandas as pd

from cxrsynth.data.dicom import read_header
from cxrsynth.data.importers.archive import DICOM, PICTURES, Archive, age, sex
from cxrsynth.errors import UserError


def read_folder(source: Path, labels_from_folders: bool = False) -> Archive:
    """Read a folder of images; every subfolder is looked into.

    Args:
        source: The folder.
        labels_from_folders: Whether an image's folder is named after its label ("Normal", "Mass"); else labels are
            unknown.
    """
    paths = _paths(source, PICTURES)
    return Archive(
        pd.DataFrame(
            {
                "image_id": [_id(path) for path in paths],
                "path": [path.as_posix() for path in paths],
                "labels": [path.parent.name if labels_from_folders else "" for path in paths],
                "site": source.resolve().name,
            }
        )
    )


def read_dicom_folder(source: Path) -> Archive:
    """Read a folder of DICOM files; labels are unknown. Patient ids are hashed, names are not looked at.

    Files that are not DICOM, or not a CR, DX or RG (radiograph) image, are passed over.
    """
    rows = []
    for path in _paths(source, DICOM):
        try:
            header = read_header(source / path, pixels=False)
        except UserError:
            continue
        if str(header.get("Modality", "DX")) not in ("CR", "DX", "RG") or "Rows" not in header:
            continue
        patient = str(header.get("PatientID", "") or "")
        rows.append(
            {
                "image_id": _id(path),
                "path": path.as_posix(),
                "labels": "",
                "patient_id": f"P{hashlib.sha256(patient.encode()).hexdigest()[:12]}" if patient else "",
                "view": str(header.get("ViewPosition", "") or ""),
                "sex": sex(str(header.get("PatientSex", "") or "")),
                "age": age(str(header.get("PatientAge", "") or "")),
                "site": source.resolve().name,
            }
        )
    return Archive(
        pd.DataFrame(rows, columns=["image_id", "path", "labels", "patient_id", "view", "sex", "age", "site"])
    )


def _paths(source: Path, suffixes: frozenset[str]) -> list[Path]:
    """Relative paths of files with these suffixes, sorted; hidden files and folders are passed over."""
    paths = (
        path.relative_to(source) for path in source.rglob("*") if path.suffix.lower() in suffixes and path.is_file()
    )
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.parts))


def _id(path: Path) -> str:
    return "_".join((*path.parts[:-1], path.stem))
