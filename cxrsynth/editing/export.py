"""`cxrsynth data export`: the images of a run as DICOM files, or with COCO or YOLO labels, to hand on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_stored
from cxrsynth.editing.dicom import plain_header, write_derived
from cxrsynth.editing.source import is_dicom
from cxrsynth.errors import UserError
from cxrsynth.files import inside, sha256_file, write_bytes, write_text
from cxrsynth.synthesis.outputs import accepted, labels_of, write_coco, write_yolo
from cxrsynth.synthesis.provenance import read_provenance

FORMATS = ("dicom", "coco", "yolo", "yolo-segmentation")
HANDED_ON = ("image_id", "path", "labels", "view", "sex", "age")  # nothing that names a patient or a source


def export(run: str, out: str, format: str = "dicom", unfiltered: bool = False) -> str:
    """Write the accepted images of a run into a folder of their own, without the identities of their sources.

    Args:
        run: A run folder, or what `cxrsynth synthesize` wrote.
        out: Folder to write; `metadata.csv` in it is a manifest.
        format: "dicom" (derived, synthetic and de-identified files), "coco" (`coco.json` with boxes and run-length
            masks), "yolo" (boxes) or "yolo-segmentation" (outlines); the latter three with PNG images.
        unfiltered: Export images that the selection refused, too.

    Returns:
        What was written, in a sentence.

    Raises:
        UserError: The run holds no images, a source is missing or has changed, or the format is unknown.
    """
    if format not in FORMATS:
        raise UserError(f"format is {format!r}; choose one of {', '.join(FORMATS)}")
    folder, target = Path(run), Path(out)
    if target.resolve() == folder.resolve():
        raise UserError(f"out is the run folder {run} itself; give a folder of its own")
    records = read_provenance(folder)
    records = records if unfiltered else accepted(records)
    archive = _archive(folder)
    suffix = "dcm" if format == "dicom" else "png"
    for record in records:
        path = target / "images" / f"{record['id']}.{suffix}"
        if format == "dicom":
            write_record_as_dicom(path, folder, record, archive)
        else:
            write_bytes(path, _unchanged(inside(folder, record["image"]), record["image_sha256"]).read_bytes())
    if format == "coco":
        write_coco(target / "coco.json", folder, records)
    elif format != "dicom":
        write_yolo(target, folder, records, polygons=format == "yolo-segmentation")
    rows = [
        (r["id"], f"images/{r['id']}.{suffix}", labels_of(r), *(_about(archive, r)[name] for name in HANDED_ON[3:]))
        for r in records
    ]
    table = pd.DataFrame(rows, columns=list(HANDED_ON))
    write_text(target / "metadata.csv", table.to_csv(index=False, lineterminator="\n"))
    return f"{target}: {len(records)} images as {format}, listed in metadata.csv"


def write_record_as_dicom(path: Path, folder: Path, record: Mapping[str, Any], archive: Manifest) -> Path:
    """Write one image of a run as DICOM: its source's technical elements where that is DICOM, else Secondary Capture.

    Args:
        path: The file to write.
        folder: The run folder.
        record: The image's provenance.
        archive: The archive of the source.

    Raises:
        UserError: The image or its source is not what the record says.
    """
    source = _unchanged(inside(archive.root, record["source_path"]), record["source_sha256"])
    made = read_stored(_unchanged(inside(folder, record["image"]), record["image_sha256"]))
    description = (
        f"Synthetic, not a patient: {labels_of(dict(record)).replace('|', ', ')} painted into a chest radiograph "
        f"by cxrsynth, image {record['id']}"
    )
    if not is_dicom(source):
        about = _about(archive, record)
        age = None if pd.isna(about["age"]) else float(about["age"])
        header = plain_header(made, str(about["view"]), str(about["sex"]), age)
        return write_derived(path, header, made.stored, description, record["image_sha256"])
    before = read_stored(source)
    shift = made.minimum - before.minimum  # a PNG holds no negative values: signed ones were raised
    stored = (made.stored.astype(np.int32) - shift).astype(before.stored.dtype)
    return write_derived(path, source, stored, description, record["image_sha256"])


def _archive(folder: Path) -> Manifest:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    manifest = folder / str((config or {}).get("manifest", ""))
    if not manifest.is_file():
        raise UserError(f"{path} does not name the archive of {folder}; give a folder that `cxrsynth run` wrote")
    return Manifest.load(manifest.resolve())


def _about(archive: Manifest, record: Mapping[str, Any]) -> pd.Series:
    return archive.table.iloc[archive.row(record["source_id"])]


def _unchanged(path: Path, sha256: str) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing; run `cxrsynth verify` to see what else is")
    if sha256_file(path) != sha256:
        raise UserError(f"{path} has changed since it was recorded; run `cxrsynth verify` to see what else has")
    return path
