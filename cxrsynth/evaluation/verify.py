"""`cxrsynth verify`: is a folder of synthetic images what its records say?"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console

from cxrsynth.data.reading import read_stored
from cxrsynth.data.split import read_splits
from cxrsynth.errors import UserError
from cxrsynth.evaluation.exactness import difference_outside
from cxrsynth.files import inside, sha256_file
from cxrsynth.synthesis.provenance import read_provenance

FILES = ("image", "region", "map")
NEEDED = (
    *("id", *FILES, *(f"{name}_sha256" for name in FILES)),
    *("source_id", "source_path", "source_sha256", "exemplar_id", "finding", "seed"),
    *("condition", "solver", "steps", "guidance", "checkpoints", "recipe", "version"),
)
SHOWN = 10


@dataclass
class Verification:
    """What was looked at, and what is wrong.

    Attributes:
        checked: How many things each check looked at, by its name.
        faults: Sentences that name the file or image, by check; empty lists where all is well.
    """

    checked: dict[str, int] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.faults.values())

    def look(self, name: str, items: Iterable[Any], fault: Callable[[Any], str | None]) -> None:
        """Apply a check to each item; it gives a sentence where something is wrong."""
        self.checked.setdefault(name, 0)
        found = self.faults.setdefault(name, [])
        for item in items:
            self.checked[name] += 1
            if sentence := fault(item):
                found.append(sentence)


def verify_folder(folder: str | Path, manifest_folder: str | Path | None = None) -> Verification:
    """Read everything of a synthesis again, from the disk.

    Args:
        folder: A run folder, or what `cxrsynth synthesize` wrote.
        manifest_folder: Where the sources lie; None = where the folder's `config.yaml` says.

    Raises:
        UserError: The folder holds no synthesis, or its sources cannot be found.
    """
    folder = Path(folder)
    if not (folder / "provenance.jsonl").is_file():
        raise UserError(f"{folder} holds no provenance.jsonl; give the folder of a run whose images are made")
    records = read_provenance(folder)
    sources = source_folder(folder) if manifest_folder is None else Path(manifest_folder)
    result = Verification()
    result.look("provenance is complete", records, _incomplete)
    whole = [record for record in records if _incomplete(record) is None]
    result.look(
        "files are as recorded", ((r, name) for r in whole for name in FILES), lambda item: _changed(folder, *item)
    )
    result.look("sources are as recorded", whole, lambda record: _source_changed(sources, record))
    result.look("outside the region nothing changed", whole, lambda record: _inexact(folder, sources, record))
    _rows(result, folder, records)
    _patients(result, folder, records)
    _tables(result, folder, whole)
    return result


def verify(folder: str, sources: str | None = None) -> None:
    """Check a folder of synthetic images: hashes, exactness against the sources, provenance, plan, patients.

    Args:
        folder: A run folder, or what `cxrsynth synthesize` wrote.
        sources: Folder of the archive's manifest; without it, where the folder's config.yaml says.

    Raises:
        UserError: Something is wrong; the console says what.
    """
    result = verify_folder(folder, sources)
    console = Console(highlight=False)
    for name, count in result.checked.items():
        faults = result.faults[name]
        console.print(f"{'ok   ' if not faults else 'WRONG'} {name}: {count - len(faults)} of {count}", markup=False)
        for sentence in faults[:SHOWN]:
            console.print(f"        {sentence}", markup=False)
        if len(faults) > SHOWN:
            console.print(f"        and {len(faults) - SHOWN} more", markup=False)
    if not result.sound:
        wrong = sum(map(len, result.faults.values()))
        raise UserError(f"{folder} is not sound ({wrong} faults, above); the command that made it repairs it")


def source_folder(folder: Path) -> Path:
    """Folder of the archive's manifest, from the folder's `config.yaml`.

    Raises:
        UserError: There is no such file or folder.
    """
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else None
    manifest = config.get("manifest") if isinstance(config, dict) else None
    if not isinstance(manifest, str) or not (folder / manifest).is_file():
        raise UserError(f"{folder} does not say where its sources are ({path}: manifest); give --sources FOLDER")
    return (folder / manifest).resolve().parent


def _incomplete(record: Mapping[str, Any]) -> str | None:
    missing = [name for name in NEEDED if record.get(name) in (None, "", {})]
    return f"the record of {record['id']} lacks {', '.join(missing)}" if missing else None


def _changed(folder: Path, record: Mapping[str, Any], name: str) -> str | None:
    try:
        path = inside(folder, str(record[name]))
        if not path.is_file():
            return f"{record[name]} is missing"
        return None if sha256_file(path) == record[f"{name}_sha256"] else f"{record[name]} is damaged: its hash differs"
    except UserError as error:
        return f"{record['id']}: {error}"


def _source_changed(sources: Path, record: Mapping[str, Any]) -> str | None:
    try:
        path = inside(sources, str(record["source_path"]))
        if not path.is_file():
            return f"source {record['source_path']} of {record['id']} is missing"
    except UserError as error:
        return f"{record['id']}: {error}"
    same = sha256_file(path) == record["source_sha256"]
    return None if same else f"source {record['source_path']} of {record['id']} is another file than it was"


def _inexact(folder: Path, sources: Path, record: Mapping[str, Any]) -> str | None:
    try:
        source = read_stored(inside(sources, str(record["source_path"])))
        made, region = (read_stored(inside(folder, str(record[name]))) for name in ("image", "region"))
    except UserError as error:
        return f"{record['id']}: {error}"
    problem = difference_outside(source, made, region.stored > 0)
    return f"{record['image']}: {problem}" if problem else None


def _rows(result: Verification, folder: Path, records: list[dict[str, Any]]) -> None:
    """Every row of the plan is made or refused, and nothing is there that was not planned."""
    plan = _table(folder / "plan.csv", ("id",))
    refused = _table(folder / "refused.csv", ("id",))
    made = {str(record["id"]) for record in records}
    known = made | set(refused["id"])
    result.look(
        "rows of the plan are accounted for",
        plan["id"],
        lambda name: None if name in known else f"{name} was neither made nor refused",
    )
    planned = set(plan["id"])
    result.look("images were planned", sorted(made), lambda name: None if name in planned else f"{name} is in no plan")
    strays = [path for kind in ("images", "regions", "maps") for path in sorted((folder / kind).glob("*"))]
    recorded = {str(record.get(name)) for record in records for name in FILES}
    result.look(
        "files have a record",
        [path.relative_to(folder).as_posix() for path in strays],
        lambda path: None if path in recorded else f"{path} has no record",
    )


def _patients(result: Verification, folder: Path, records: list[dict[str, Any]]) -> None:
    splits = read_splits(folder / "splits.csv")
    split_of = dict(zip(splits["image_id"], splits["split"], strict=True))

    def leak(record: Mapping[str, Any]) -> str | None:
        for name in ("source_id", "exemplar_id"):
            split = split_of.get(record.get(name))
            if split != "train":
                return f"{name} {record.get(name)!r} of {record['id']} is no training image (split: {split or 'none'})"
        return None

    result.look("sources and exemplars are training patients", records, leak)


def _tables(result: Verification, folder: Path, records: list[dict[str, Any]]) -> None:
    """The tables beside the images list the same images as the records."""
    made = [record["id"] for record in records]
    kept = [record["id"] for record in records if record.get("accepted", True)]
    parquet = folder / "provenance.parquet"
    listed: dict[str, Callable[[], list[str]]] = {
        "synthetic.csv": lambda: _table(folder / "synthetic.csv", ("image_id",))["image_id"].tolist(),
        "synthetic_all.csv": lambda: _table(folder / "synthetic_all.csv", ("image_id",))["image_id"].tolist(),
        "provenance.parquet": lambda: pd.read_parquet(parquet)["id"].tolist() if made else [],
        "coco.json": lambda: [
            Path(image["file_name"]).stem for image in json.loads((folder / "coco.json").read_text())["images"]
        ],
    }

    def differs(name: str) -> str | None:
        try:
            images = listed[name]()
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{name} cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        expected = made if name in ("synthetic_all.csv", "provenance.parquet") else kept
        return None if images == expected else f"{name} lists other images than provenance.jsonl"

    result.look("tables list the recorded images", listed, differs)


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path} is missing; the command that made the folder writes it again")
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(columns, str), usecols=lambda name: name in columns)[list(columns)]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}); make it again") from error
