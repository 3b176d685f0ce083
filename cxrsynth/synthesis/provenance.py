"""Where each image came from: one record an image, gathered into one file at the end."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from cxrsynth.files import sha256_file, write_text

RECORDS = "provenance"
FOLDERS = ("images", "regions", "maps", RECORDS)
REFUSED = ("id", "source_id", "exemplar_id", "finding", "refused")


def recipe_hash(settings: dict[str, Any]) -> str:
    """Short hash of everything but the plan row that an image depends on."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def write_record(folder: Path, record: dict[str, Any]) -> Path:
    """Write one image's record; it is written after the image's files, so its presence means that they are whole."""
    return write_text(folder / RECORDS / f"{record['id']}.json", json.dumps(record) + "\n")


def is_made(folder: Path, row: dict[str, Any], recipe: str) -> bool:
    """Whether the record of a plan row exists for this recipe and its files are as recorded."""
    path = folder / RECORDS / f"{row['id']}.json"
    try:
        record = json.loads(path.read_text())
        asked = {**record, **record.get("planned", {})}
    except (OSError, ValueError, TypeError, AttributeError):  # missing, or not a record
        return False
    if record.get("recipe") != recipe or any(asked.get(name) != value for name, value in row.items()):
        return False
    if "refused" in record:
        return not str(record["refused"]).startswith("unreadable")  # the file may have come back
    files = {name: folder / str(record.get(name, "")) for name in ("image", "region", "map")}
    return all(p.is_file() and sha256_file(p) == record.get(f"{name}_sha256") for name, p in files.items())


def gather(folder: Path, plan: pd.DataFrame) -> list[dict[str, Any]]:
    """Write provenance.jsonl and refused.csv from the records of a plan, sorted by id.

    Returns:
        The records of the images that were made.
    """
    records = []
    for name in sorted(plan["id"]):
        path = folder / RECORDS / f"{name}.json"
        if path.is_file():
            records.append(json.loads(path.read_text()))
    made = [r for r in records if "refused" not in r]
    refused = [{name: r[name] for name in REFUSED} for r in records if "refused" in r]
    write_text(folder / "provenance.jsonl", "".join(json.dumps(r) + "\n" for r in made))
    table = pd.DataFrame(refused, columns=list(REFUSED))
    write_text(folder / "refused.csv", table.to_csv(index=False, lineterminator="\n"))
    return made
