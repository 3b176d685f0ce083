"""Where each image came from: one record an image, gathered into one file at the end."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from cxrsynth.errors import UserError, first_line
from cxrsynth.files import sha256_file, write_text
from cxrsynth.synthesis.selection import CHECKS, read_verdict

RECORDS = "provenance"
ABOUT = ("id", "source_id", "exemplar_id", "finding")
REFUSED = ("id", "source_id", "exemplar_id", "finding", "refused", "check", "score", "limit")


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
        reason = record["refused"]  # an unreadable file may have come back
        return isinstance(reason, str) and "image" not in record and not reason.startswith("unreadable")
    return all(_is_whole(folder, record, name) for name in ("image", "region", "map"))


def _is_whole(folder: Path, record: dict[str, Any], name: str) -> bool:
    relative = f"{name}s/{record['id']}.png"  # and not whatever a record may say
    path = folder / relative
    return record.get(name) == relative and path.is_file() and sha256_file(path) == record.get(f"{name}_sha256")


def made_records(folder: Path, plan: pd.DataFrame) -> list[dict[str, Any]]:
    """The records of a plan's rows, sorted by id, as the ranks wrote them; refused rows are among them."""
    paths = [folder / RECORDS / f"{name}.json" for name in sorted(plan["id"])]
    return [_read_record(path) for path in paths if path.is_file()]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        needed = ABOUT if "refused" in record else (*ABOUT, "image", "region", "map")
        wrong = [name for name in needed if not isinstance(record[name], str)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"record {path} is damaged ({first_line(error)}); delete it and run the command again"
        ) from error
    if wrong or record["id"] != path.stem or not isinstance(record.get("refused", ""), str):
        raise UserError(f"record {path} is damaged ({wrong or 'id or refused'}); delete it and run the command again")
    return record


def gather(folder: Path, plan: pd.DataFrame, selected: bool = False) -> list[dict[str, Any]]:
    """Write provenance.jsonl, refused.csv and, with a selection, scores.csv from the records of a plan, sorted by id.

    Args:
        folder: The run folder.
        plan: The plan.
        selected: Whether every image has a verdict of the selection, which becomes part of its record.

    Returns:
        The records of the images that were made.
    """
    made: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for record in made_records(folder, plan):
        if "refused" in record:
            refused.append({"check": record["refused"].partition(":")[0], **record})
            continue
        verdict = read_verdict(folder, record["id"]) if selected else {}
        made.append(
            {**record, **{name: verdict[name] for name in ("scores", "accepted", "rejected") if name in verdict}}
        )
        if "rejected" in verdict:
            refused.append({**record, **verdict, "refused": verdict["rejected"]})
    write_text(folder / "provenance.jsonl", "".join(json.dumps(r) + "\n" for r in made))
    refused.sort(key=lambda record: record["id"])
    _write_table(folder / "refused.csv", refused, REFUSED)
    if selected:
        scored = [{**r, **r["scores"]} for r in made]
        _write_table(folder / "scores.csv", scored, ("id", "finding", *CHECKS, "nearest_lesion", "accepted"))
    return made


def read_provenance(run_folder: str | Path) -> list[dict[str, Any]]:
    """The records of `provenance.jsonl`, in the order of the file.

    Raises:
        UserError: A line is not a JSON object.
    """
    path = Path(run_folder) / "provenance.jsonl"
    records = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number} is not JSON; make the images again") from error
        if not isinstance(record, dict) or "id" not in record:
            raise UserError(f"{path} line {number} is not a provenance record; make the images again")
        records.append(record)
    return records


def _write_table(path: Path, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Path:
    return write_text(path, pd.DataFrame(rows, columns=list(columns)).to_csv(index=False, lineterminator="\n"))
