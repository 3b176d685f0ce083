"""What `cxrsynth data` can do with an archive."""

import shutil
from pathlib import Path
from typing import Any, Literal

from cxrsynth.data.check import check_manifest, print_report
from cxrsynth.data.importers import IMPORTERS, Archive
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.split import make_splits, read_splits, write_splits
from cxrsynth.errors import UserError
from cxrsynth.files import write_json


def import_archive(
    kind: Literal["nih", "vindr", "chexpert", "mimic", "padchest", "folder", "dicom"],
    source: str,
    out: str | None = None,
    rule: Literal["any", "majority", "consensus"] = "majority",
    labels_from_folders: bool = False,
    copy: bool = False,
    overwrite: bool = False,
) -> str:
    """Write the manifest of a published archive or of a folder.

    Args:
        kind: Whose layout the archive has.
        source: The archive's top folder.
        out: The manifest's file (.csv or .parquet); None = manifest.csv in the archive's folder. Its folder must hold
            the images, unless they are copied.
        rule: VinDr only: a finding counts if any reader, the majority or all of them named it.
        labels_from_folders: Folder only: the name of an image's folder is its label.
        copy: Copy the images beside the manifest, for an archive that must not be written to.
        overwrite: Replace a manifest that is there already.

    Returns:
        One sentence about what was written.
    """
    if kind not in IMPORTERS:
        raise UserError(f"kind is {kind!r}; choose one of {', '.join(IMPORTERS)}")
    root = Path(source)
    if not root.is_dir():
        raise UserError(f"source {source} is not a folder; give the archive's top folder")
    path = Path(out) if out else root / "manifest.csv"
    _refuse_overwriting(path, overwrite)
    options: dict[str, Any] = {"rule": rule} if kind == "vindr" else {}
    if kind == "folder":
        options = {"labels_from_folders": labels_from_folders}
    archive: Archive = IMPORTERS[kind](root, **options)
    table = archive.table[archive.table.path != ""]
    if table.empty:
        raise UserError(
            f"source {source} has none of the {len(archive.table)} images that its tables name; unpack them there"
        )
    boxes = archive.boxes[archive.boxes.image_id.isin(table.image_id)]
    manifest = Manifest.from_table(table, root, boxes, name=f"archive {source}")
    if copy:
        for relative in table.path:
            target = path.parent / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / relative, target)
        manifest = Manifest.from_table(table, path.parent, boxes, name=f"archive {source}")
    manifest.save(path)
    missing = len(archive.table) - len(table)
    return f"{path}: {len(table)} images" + (f"; {missing} that the tables name are not there" if missing else "")


def check(manifest: str, splits: str | None = None, out: str | None = None) -> None:
    """Print what an archive holds, and what is wrong with it: unreadable, odd and duplicate images, torn patients.

    Args:
        manifest: The manifest's file.
        splits: A splits.csv to check with it.
        out: A JSON file for the whole report.
    """
    report = check_manifest(Manifest.load(manifest), read_splits(splits, refuse=False) if splits else None)
    print_report(report)
    if out:
        write_json(out, report.as_dict())


def split(
    manifest: str, out: str = "splits.csv", fractions: tuple[float, float, float] = (0.7, 0.1, 0.2), seed: int = 0
) -> str:
    """Split an archive by patient and write the split down.

    Args:
        manifest: The manifest's file.
        out: The file to write: image_id, patient_id, split.
        fractions: Shares of train, val and test.
        seed: Another seed, another split.

    Returns:
        One sentence about what was written.
    """
    table = make_splits(Manifest.load(manifest), fractions, seed)
    write_splits(table, out)
    counts = table.split.value_counts()
    return f"{out}: " + ", ".join(f"{counts.get(name, 0)} {name}" for name in ("train", "val", "test"))


def _refuse_overwriting(path: Path, overwrite: bool) -> None:
    for file in (path, path.parent / "boxes.csv"):
        if file.exists() and not overwrite:
            raise UserError(f"{file} is there already; give another out, or overwrite=true to replace it")
