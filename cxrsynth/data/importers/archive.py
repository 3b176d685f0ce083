"""What every importer makes, and the small things that all of them need."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cxrsynth.data.manifest import BOX_COLUMNS
from cxrsynth.errors import UserError

PICTURES = frozenset({".png", ".jpg", ".jpeg"})
DICOM = frozenset({".dcm", ".dicom", ".dic", ".ima", ""})


@dataclass
class Archive:
    """An archive in the manifest's terms.

    Attributes:
        table: Columns of the manifest. An empty `path` means that the image's file is not there.
        boxes: `image_id, label, x_min, y_min, x_max, y_max`.
    """

    table: pd.DataFrame
    boxes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(BOX_COLUMNS)))


def find_table(source: Path, *names: str) -> Path | None:
    """The first of these files, plain or gzipped, in the archive's folder or one below."""
    for name in names:
        for pattern in (name, f"{name}.gz", f"*/{name}", f"*/{name}.gz"):
            found = sorted(source.glob(pattern))
            if found:
                return found[0]
    return None


def read_table(source: Path, *names: str, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read the first of these files that exists, all cells as text.

    Raises:
        UserError: None exists, or a column is missing.
    """
    path = find_table(source, *names)
    if path is None:
        raise UserError(f"source {source} has no {' or '.join(names)}; give the archive's top folder")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable table: {error}") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r}; is it the published file?")
    return table


def files_by_name(source: Path, suffixes: frozenset[str], stem: bool = False) -> dict[str, str]:
    """File name (or stem) to path relative to the archive, of every file with one of these suffixes."""
    found: dict[str, str] = {}
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix.lower() in suffixes and not name.startswith("."):
                found.setdefault(path.stem if stem else name, path.relative_to(source).as_posix())
    return found


def sex(value: str) -> str:
    """M, F or empty."""
    letter = value.strip()[:1].upper()
    return letter if letter in ("M", "F") else ""


def age(value: str) -> float:
    """Years, from a number or a DICOM age string ("063Y", "018M"); NaN if unknown or beyond 120."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*", value.upper())
    if not match:
        return float("nan")
    years = float(match[1]) / {"": 1, "Y": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]]
    return years if years <= 120 else float("nan")


def uncertain_labels(table: pd.DataFrame, findings: Iterable[str]) -> tuple[list[str], list[str]]:
    """Labels and unknown findings of CheXpert's columns: 1 present, -1 unknown, 0 and blank absent."""
    labels, unknown = [], []
    for row in table[list(findings)].apply(pd.to_numeric, errors="coerce").itertuples(index=False):
        labels.append("|".join(name for name, value in zip(findings, row, strict=True) if value == 1))
        unknown.append("|".join(name for name, value in zip(findings, row, strict=True) if value == -1))
    return labels, unknown
