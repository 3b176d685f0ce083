"""CheXpert: `train.csv`, `valid.csv` and `test.csv` with one column an observation."""

from pathlib import Path

import pandas as pd

from cxrsynth.data.importers.archive import Archive, age, find_table, read_table, sex, uncertain_labels
from cxrsynth.data.labels import CHEXPERT_14
from cxrsynth.errors import UserError

OBSERVATIONS = ("No Finding", *CHEXPERT_14)


def read_chexpert(source: Path) -> Archive:
    """Read CheXpert (Irvin et al. 2019), the full or the small one.

    An observation that is marked uncertain (-1) is unknown; one that the report does not mention (blank) is absent. The
    official valid part becomes val, the test part test.
    """
    parts = []
    for name, split in (("train.csv", ""), ("valid.csv", "val"), ("test.csv", "test")):
        if find_table(source, name) is None:
            continue
        rows = read_table(source, name, columns=("Path", *OBSERVATIONS))
        parts.append(_part(rows, split, source))
    if not parts:
        raise UserError(f"source {source} has no train.csv, valid.csv or test.csv; give the archive's top folder")
    return Archive(pd.concat(parts, ignore_index=True))


def _part(rows: pd.DataFrame, split: str, source: Path) -> pd.DataFrame:
    # "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg": the patient's folder and what stands around it
    parts = rows.Path.map(lambda path: Path(path).parts)
    labels, unknown = uncertain_labels(rows, OBSERVATIONS)
    position = rows["AP/PA"] if "AP/PA" in rows else pd.Series("", index=rows.index)
    side = rows["Frontal/Lateral"].str.lower() if "Frontal/Lateral" in rows else pd.Series("", index=rows.index)
    return pd.DataFrame(
        {
            "image_id": parts.map(lambda part: "_".join((*part[-3:-1], Path(part[-1]).stem))),
            "path": parts.map(lambda part: _present(source, part)),
            "labels": labels,
            "unknown": unknown,
            "patient_id": parts.map(lambda part: part[-3]),
            "view": ["lateral" if s == "lateral" else p or s for s, p in zip(side, position, strict=True)],
            "sex": rows["Sex"].map(sex) if "Sex" in rows else "",
            "age": rows["Age"].map(age) if "Age" in rows else float("nan"),
            "site": "CheXpert",
            "split": split,
        }
    )


def _present(source: Path, parts: tuple[str, ...]) -> str:
    """The file's path, with or without the archive's own name in front; empty if it is not there."""
    for candidate in (Path(*parts), Path(*parts[1:])):
        if (source / candidate).is_file():
            return candidate.as_posix()
    return ""
