"""The manifest: a table with one row an image, and beside it boxes and masks."""

import io
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxrsynth.data.labels import LABEL_SPACES, canonical, find, is_device, is_no_finding
from cxrsynth.errors import UserError, first_line
from cxrsynth.files import inside, write_bytes

REQUIRED = ("image_id", "path", "labels")
OPTIONAL = ("patient_id", "view", "sex", "age", "text", "site", "unknown", "split")
BOX_COLUMNS = ("image_id", "label", "x_min", "y_min", "x_max", "y_max")
MASK_COLUMNS = ("image_id", "path", "structure")
ALL_OTHERS = "*"  # in `unknown`: every finding that `labels` does not name


class Manifest:
    """An archive as a table. Never changed in place: `select` and `+` give new ones.

    Attributes:
        table: One row an image, index 0..N-1. Columns `REQUIRED`, `OPTIONAL` (empty text or NaN age where unknown),
            `root` (the folder that `path` is relative to) and whatever else the file held.
        findings: All findings the labels name, in alphabetical order. Kept by `select`.
        boxes: `BOX_COLUMNS`, in pixels of the stored image; labels spelled as in `findings`.
        masks: `MASK_COLUMNS` and `root`.
    """

    def __init__(self, table: pd.DataFrame, boxes: pd.DataFrame, masks: pd.DataFrame, findings: Sequence[str]):
        self.table, self.boxes, self.masks = table, boxes, masks
        self.findings = list(findings)
        self._row = {image_id: row for row, image_id in enumerate(table.image_id)}

    @classmethod
    def load(cls, path: str | Path) -> "Manifest":
        """Read a manifest, and `boxes.csv` and `masks.csv` of its folder where they exist.

        Args:
            path: A `.csv` or `.parquet` file.

        Raises:
            UserError: The file cannot be read, lacks a column, has an image twice, or a path leaves its folder.
        """
        path = Path(path)
        root = path.parent.resolve()
        return cls.from_table(
            _read_table(path, REQUIRED),
            root,
            boxes=_read_beside(root / "boxes.csv", BOX_COLUMNS),
            masks=_read_beside(root / "masks.csv", MASK_COLUMNS),
            name=str(path),
        )

    @classmethod
    def from_table(
        cls,
        table: pd.DataFrame,
        root: str | Path,
        boxes: pd.DataFrame | None = None,
        masks: pd.DataFrame | None = None,
        name: str = "the manifest",
    ) -> "Manifest":
        """Check a table and make a manifest of it (see `load`). `name` is used in messages."""
        root = Path(root).resolve()
        table = table.reset_index(drop=True).copy()
        for column in OPTIONAL:
            if column not in table:
                table[column] = ""
        for column in set(REQUIRED + OPTIONAL) - {"age"}:
            table[column] = table[column].fillna("").astype(str).str.strip()
        table["age"] = pd.to_numeric(table["age"], errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
        table["root"] = str(root)
        _check_ids(table, name)
        for relative in table.path:
            _check_inside(root, relative, name)
        findings = sorted({f for labels in set(table.labels) for f in split_labels(labels) if not is_no_finding(f)})
        boxes = pd.DataFrame(columns=list(BOX_COLUMNS)) if boxes is None else boxes.copy()
        boxes["label"] = [find(label, findings) or label for label in boxes.label]
        for column in BOX_COLUMNS[2:]:
            boxes[column] = pd.to_numeric(boxes[column], errors="coerce")
        masks = pd.DataFrame(columns=list(MASK_COLUMNS)) if masks is None else masks.copy()
        for relative in masks.path:
            _check_inside(root, relative, f"masks.csv of {name}")
        masks["root"] = str(root)
        return cls(table, boxes, masks, findings)

    @property
    def root(self) -> Path:
        """The folder of the (first) manifest."""
        return Path(self.table.root.iloc[0]) if len(self) else Path()

    @property
    def healthy(self) -> np.ndarray:
        """Bool `[N]`: the labels say "No Finding" or "Normal", and nothing else."""
        known = {}
        for cell in set(self.table.labels):
            names = split_labels(cell)
            known[cell] = bool(names) and all(map(is_no_finding, names))
        return np.array([known[cell] for cell in self.table.labels.tolist()], bool)

    @property
    def ill(self) -> np.ndarray:
        """Float `[N]`: 1 where a label names a disease, 0 where `healthy`, else NaN (nothing said, devices alone)."""
        known = {}
        for cell in set(self.table.labels):
            diseases = [name for name in split_labels(cell) if not is_no_finding(name) and not is_device(name)]
            known[cell] = 1.0 if diseases else np.nan
        return np.where(self.healthy, 0.0, [known[cell] for cell in self.table.labels.tolist()])

    def __len__(self) -> int:
        return len(self.table)

    def __add__(self, other: "Manifest") -> "Manifest":
        """Both archives' images, each with its own root. Findings are spelled as in the first where it knows them."""
        clash = self._row.keys() & other._row.keys()
        if clash:
            raise UserError(
                f"image_id {min(clash)!r} is in both manifests ({len(clash)} are); rename one archive's images"
            )
        table = other.table.copy()
        for column in ("labels", "unknown"):
            table[column] = [
                "|".join(find(f, self.findings) or f for f in split_labels(cell)) for cell in table[column]
            ]
        boxes = other.boxes.copy()
        boxes["label"] = [find(label, self.findings) or label for label in boxes.label]
        findings = sorted({*self.findings, *(find(f, self.findings) or f for f in other.findings)})
        return Manifest(
            pd.concat([self.table, table], ignore_index=True),
            _stack(self.boxes, boxes),
            _stack(self.masks, other.masks),
            findings,
        )

    def row(self, image_id: str) -> int:
        """The row number of an image.

        Raises:
            UserError: There is no such image.
        """
        if image_id not in self._row:
            raise UserError(f"the manifest has no image_id {image_id!r}")
        return self._row[image_id]

    def path(self, image_id: str) -> Path:
        """The absolute path of an image's file."""
        row = self.row(image_id)
        return inside(str(self.table["root"].iat[row]), str(self.table["path"].iat[row]))

    def select(
        self,
        views: Collection[str] | None = None,
        sites: Collection[str] | None = None,
        ids: Collection[str] | None = None,
    ) -> "Manifest":
        """The images with one of these views, sites and ids, in the table's order. None means any.

        Raises:
            UserError: A view or site that no image has.
        """
        keep = np.ones(len(self), bool)
        for column, wanted in (("view", views), ("site", sites)):
            if wanted is None:
                continue
            known = sorted(set(self.table[column]))
            strange = sorted(set(wanted) - set(known))
            if strange:
                raise UserError(f"{column}s: no image has {column} {strange[0]!r}; choose from {', '.join(known)}")
            keep &= self.table[column].isin(list(wanted)).to_numpy()
        if ids is not None:
            keep &= self.table.image_id.isin(list(ids)).to_numpy()
        table = self.table[keep].reset_index(drop=True)
        boxes, masks = (
            frame[frame.image_id.isin(table.image_id)].reset_index(drop=True) for frame in (self.boxes, self.masks)
        )
        return Manifest(table, boxes, masks, self.findings)

    def resolve(self, findings: Sequence[str] | None) -> list[str]:
        """Findings as this manifest spells them; None means all that it names.

        A finding of a published label space that no image here has is allowed too.

        Raises:
            UserError: An unknown finding, or one that is given twice.
        """
        if findings is None:
            return list(self.findings)
        known = [*self.findings, *(f for space in LABEL_SPACES.values() for f in space if not find(f, self.findings))]
        resolved = [canonical(name, known) for name in findings]
        twice = [f for f in resolved if resolved.count(f) > 1]
        if twice:
            raise UserError(f"findings names {twice[0]!r} twice; name each finding once")
        return resolved

    def targets(self, findings: Sequence[str]) -> Tensor:
        """What is known of each image.

        Args:
            findings: C names (see `resolve`).

        Returns:
            Float32 `[N, C]`: 1 present, 0 absent, NaN unknown (no labels at all, or listed in `unknown`).
        """
        findings = self.resolve(findings)
        rows = {}
        for cells in set(zip(self.table.labels, self.table.unknown, strict=True)):
            rows[cells] = _target(split_labels(cells[0]), split_labels(cells[1]), findings)
        values = [rows[cells] for cells in zip(self.table.labels.tolist(), self.table.unknown.tolist(), strict=True)]
        return torch.from_numpy(np.array(values, np.float32).reshape(len(self), len(findings)))

    def save(self, path: str | Path) -> Path:
        """Write the table (CSV or Parquet by its name), and `boxes.csv` and `masks.csv` beside it if there are any.

        Raises:
            UserError: An image lies outside the folder of `path`.
        """
        path = Path(path)
        folder = path.parent.resolve()
        table = _relative(self.table, folder).drop(columns="root")
        if path.suffix == ".parquet":
            buffer = io.BytesIO()
            table.to_parquet(buffer, index=False)
            write_bytes(path, buffer.getvalue())
        else:
            write_bytes(path, table.to_csv(index=False).encode())
        if len(self.boxes):
            write_bytes(folder / "boxes.csv", self.boxes.to_csv(index=False).encode())
        if len(self.masks):
            write_bytes(
                folder / "masks.csv", _relative(self.masks, folder).drop(columns="root").to_csv(index=False).encode()
            )
        return path


def split_labels(cell: str) -> list[str]:
    """The names in a cell of `labels` or `unknown`, which are joined by `|`."""
    return [name for name in (part.strip() for part in cell.split("|")) if name]


def _target(labels: list[str], unknown: list[str], findings: list[str]) -> list[float]:
    present = {find(label, findings) for label in labels}
    unread = {find(label, findings) for label in unknown}
    blank = not labels or ALL_OTHERS in unknown
    return [1.0 if f in present else np.nan if blank or f in unread else 0.0 for f in findings]


def _read_table(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"manifest {path} does not exist; give a CSV or Parquet file") from error
    except Exception as error:  # pandas and pyarrow raise many kinds on damaged files
        raise UserError(f"manifest {path} is not a readable table ({first_line(error)}); export it again") from error
    missing = [column for column in required if column not in table]
    if missing:
        raise UserError(f"{path} lacks the column {missing[0]!r}; it needs {', '.join(required)}")
    if not table.columns.is_unique:
        raise UserError(f"{path} has the column {table.columns[table.columns.duplicated()][0]!r} twice; keep one")
    return table


def _read_beside(path: Path, required: tuple[str, ...]) -> pd.DataFrame | None:
    return _read_table(path, required).fillna("") if path.exists() else None  # rows may be short


def _check_ids(table: pd.DataFrame, name: str) -> None:
    twice = table.image_id[table.image_id.duplicated()]
    if len(twice):
        raise UserError(f"{name} has image_id {twice.iloc[0]!r} more than once; one row is one image")
    for image_id in table.image_id:
        if not image_id or image_id.startswith(".") or any(c in image_id for c in "/\\:\0\n\r"):
            raise UserError(
                f"{name} has image_id {image_id!r}; ids become file names, so they need letters, digits, _ - or ."
            )


def _check_inside(root: Path, relative: str, name: str) -> None:
    # by the text alone: asking the disk for each of 100,000 files is slow; `path` asks when a file is opened
    if not relative or relative.startswith("/") or ".." in relative.split("/"):
        raise UserError(f"{name} has path {relative!r}, which leaves its folder {root}; paths are relative to it")


def _relative(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    frame = frame.copy()
    paths = []
    for root, relative in zip(frame.root, frame.path, strict=True):
        path = Path(root, relative)
        if not path.is_relative_to(folder):
            raise UserError(f"{path} lies outside {folder}; save the manifest in a folder that holds its images")
        paths.append(path.relative_to(folder).as_posix())
    frame["path"] = paths
    return frame


def _stack(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # an empty frame has no column types worth keeping
        return pd.concat([first, second], ignore_index=True)
