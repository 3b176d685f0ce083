"""PadChest: `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`, images in numbered folders."""

import ast
from pathlib import Path

import pandas as pd

from cxrsynth.data.importers.archive import PICTURES, Archive, files_by_name, read_table, sex
from cxrsynth.data.labels import NIH_14, find

TABLES = ("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "PADCHEST_chest_x_ray_images_labels_160K.csv")
# what is written among the labels but is no finding
REMARKS = frozenset({"", "exclude", "unchanged", "suboptimal study"})


def read_padchest(source: Path) -> Archive:
    """Read PadChest (Bustos et al. 2020). Findings that NIH names too are spelled its way, others as they are."""
    rows = read_table(source, *TABLES, columns=("ImageID", "PatientID", "Projection", "Labels"))
    files = files_by_name(source, PICTURES)
    born = pd.to_numeric(rows.get("PatientBirth", pd.Series("", index=rows.index)), errors="coerce")
    taken = pd.to_numeric(rows.get("StudyDate_DICOM", pd.Series("", index=rows.index)).str[:4], errors="coerce")
    table = pd.DataFrame(
        {
            "image_id": rows.ImageID.map(lambda name: Path(name).stem),
            "path": rows.ImageID.map(files).fillna(""),
            "labels": rows.Labels.map(_labels),
            "patient_id": "PadChest_" + rows.PatientID,
            "view": rows.Projection.replace({"L": "lateral"}),
            "sex": rows.PatientSex_DICOM.map(sex) if "PatientSex_DICOM" in rows else "",
            "age": (taken - born).where((taken - born).between(0, 120)),
            "text": rows.get("Report", ""),
            "site": "PadChest",
        }
    )
    return Archive(table)


def _labels(cell: str) -> str:
    """A list as Python prints it ("['normal']") joined by `|`; empty where it cannot be read."""
    try:
        values = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        return ""
    names = [str(value).strip() for value in values] if isinstance(values, list) else []
    names = ["Normal" if name == "normal" else find(name, NIH_14) or name for name in names if name not in REMARKS]
    return "|".join(dict.fromkeys(name.replace("|", " ") for name in names))
