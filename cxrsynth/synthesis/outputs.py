"""The tables of a synthesis, written when every image is there: manifests, boxes, masks, Parquet, COCO and YOLO."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cxrsynth.data.labels import is_no_finding
from cxrsynth.data.manifest import BOX_COLUMNS, MASK_COLUMNS, split_labels
from cxrsynth.data.reading import read_stored
from cxrsynth.files import write_atomic, write_text
from cxrsynth.synthesis.detection import Part, coco_annotation, coco_image, parts_of, yolo_box, yolo_polygon

ABOUT_SOURCE = ("patient_id", "view", "sex", "age", "site")
TABLES = (
    *("provenance.jsonl", "provenance.parquet", "refused.csv", "synthetic.csv", "synthetic_all.csv"),
    *("boxes.csv", "masks.csv", "coco.json", "yolo.txt", "yolo.yaml"),
)
Record = dict[str, Any]


def write_outputs(folder: Path, records: Sequence[Record], archive: pd.DataFrame) -> None:
    """Write every table of a synthesis; the same records give the same bytes.

    `synthetic.csv` (accepted images) and `synthetic_all.csv` (all made) are manifests, `boxes.csv` and `masks.csv`
    belong to both; `provenance.parquet` is `provenance.jsonl` as a table; `coco.json`, `labels/`, `yolo.txt` and
    `yolo.yaml` are for detectors and hold accepted images.

    Args:
        folder: The run folder, holding the regions.
        records: Provenance of the images made, sorted by id.
        archive: The archive's table; patient, view, sex, age and site are the source's.
    """
    kept = accepted(records)
    _write_manifest(folder / "synthetic.csv", kept, archive)
    _write_manifest(folder / "synthetic_all.csv", records, archive)
    boxes = [
        (record["id"], finding, *part.box)
        for record in records
        for finding, part in _marked(record, parts_of(read_region(folder, record)))
    ]
    _write_table(folder / "boxes.csv", boxes, BOX_COLUMNS)
    masks = [(r["id"], r["region"], finding) for r in records for finding in findings_of(r)]
    _write_table(folder / "masks.csv", masks, MASK_COLUMNS)
    flat = pd.json_normalize(list(records)).map(_scalar)
    write_atomic(folder / "provenance.parquet", lambda file: flat.to_parquet(file, index=False))
    write_coco(folder / "coco.json", folder, kept)
    write_yolo(folder, folder, kept)


def accepted(records: Sequence[Record]) -> list[Record]:
    """The records whose images were not refused by the selection."""
    return [record for record in records if record.get("accepted", True)]


def findings_of(record: Record) -> list[str]:
    """What was painted; empty where a finding was taken away."""
    return [name for name in split_labels(labels_of(record)) if not is_no_finding(name)]


def labels_of(record: Record) -> str:
    """What was asked for, joined by `|`: the finding, with those that were asked beside it."""
    return record.get("findings") or record["finding"]


def read_region(folder: Path, record: Record) -> Any:
    """The region of a record, bool `[H, W]`."""
    return read_stored(folder / record["region"]).stored > 0


def write_coco(path: Path, folder: Path, records: Sequence[Record]) -> Path:
    """COCO instances: a category a finding, an annotation a connected part of a region.

    Args:
        path: The JSON file.
        folder: Holds the regions; file names are relative to it.
        records: Images to list.
    """
    categories = _categories(records)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        region = read_region(folder, record)
        images.append(coco_image(number, record["image"], region.shape))
        for finding, part in _marked(record, parts_of(region)):
            annotations.append(coco_annotation(len(annotations) + 1, number, categories.index(finding) + 1, part))
    content = {
        "info": {"description": "synthetic chest X-rays made by cxrsynth; not for clinical use"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "finding"} for i, name in enumerate(categories, 1)],
    }
    return write_text(path, json.dumps(content) + "\n")


def write_yolo(out: Path, folder: Path, records: Sequence[Record], polygons: bool = False) -> Path:
    """YOLO labels, `labels/<id>.txt` beside `images/`, with `yolo.txt` (the images) and `yolo.yaml`.

    Args:
        out: Where the labels go.
        folder: Holds the regions.
        records: Images to label.
        polygons: Write outlines for segmentation in place of boxes.
    """
    categories = _categories(records)
    line = yolo_polygon if polygons else yolo_box
    labels = out / "labels"
    for record in records:
        marked = _marked(record, parts_of(read_region(folder, record)))
        lines = [line(categories.index(finding), part) for finding, part in marked]
        write_text(labels / f"{record['id']}.txt", "".join(f"{text}\n" for text in lines))
    current = {f"{record['id']}.txt" for record in records}
    for stale in [path for path in labels.glob("*.txt") if path.name not in current]:
        stale.unlink()
    write_text(out / "yolo.txt", "".join(f"./{record['image']}\n" for record in records))
    content = {"path": ".", "train": "yolo.txt", "val": None, "names": dict(enumerate(categories))}
    return write_text(out / "yolo.yaml", yaml.safe_dump(content, sort_keys=False))


def _categories(records: Sequence[Record]) -> list[str]:
    return sorted({finding for record in records for finding in findings_of(record)})


def _marked(record: Record, parts: list[Part]) -> Iterator[tuple[str, Part]]:
    return ((finding, part) for finding in findings_of(record) for part in parts)


def _write_manifest(path: Path, records: Sequence[Record], archive: pd.DataFrame) -> Path:
    source, about = archive.set_index("image_id"), list(ABOUT_SOURCE)
    rows = [
        (r["id"], r["image"], labels_of(r), r["source_id"], r["exemplar_id"], *source.loc[r["source_id"], about])
        for r in records
    ]
    return _write_table(path, rows, ("image_id", "path", "labels", "source_id", "exemplar_id", *ABOUT_SOURCE))


def _write_table(path: Path, rows: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> Path:
    return write_text(path, pd.DataFrame(rows, columns=list(columns)).to_csv(index=False, lineterminator="\n"))


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value
