"""Rows of the plan that share one sampler forward, with their images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxrsynth.data.geometry import to_square
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import StoredImage, read_stored
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file


@dataclass(frozen=True)
class Group:
    """Rows of the plan that share one sampler forward.

    Attributes:
        rows: The plan's rows.
        sources: The healthy images, as stored; None where unreadable.
        source_paths: Their paths as the manifest gives them.
        source_hashes: SHA-256 of their files; empty where unreadable.
        source_faults: For each row what is wrong with its source's file, or None.
        source: `[n, 1, S, S]`, the sources as squares.
        people: For each row what the manifest says of its source: view, sex and age; blank or NaN where unknown.
        exemplar: `[n, 1, S, S]`, the first exemplars as squares.
        exemplar_hashes: As of the sources.
        exemplar_faults: As of the sources.
        paths: Files of all images, the alternates' too, which are read when they are needed.
    """

    rows: list[dict[str, Any]]
    sources: list[StoredImage | None]
    source_paths: list[str]
    source_hashes: list[str]
    source_faults: list[str | None]
    source: Tensor
    people: list[dict[str, Any]]
    exemplar: Tensor
    exemplar_hashes: list[str]
    exemplar_faults: list[str | None]
    paths: dict[str, Path]


def read_group(rows: list[dict[str, Any]], manifest: Manifest, size: int) -> Group:
    """Read a group's sources and first exemplars."""
    names = {name for row in rows for name in (row["source_id"], *exemplars_of(row))}
    paths = {name: path for name in sorted(names) if (path := _path(manifest, name)) is not None}
    sources = [_read(paths.get(row["source_id"]), size) for row in rows]
    exemplars = [read_square(paths.get(row["exemplar_id"]), size) for row in rows]
    table = manifest.table.iloc[[manifest.row(row["source_id"]) for row in rows]]
    return Group(
        rows=rows,
        sources=[s[0] for s in sources],
        source_paths=table["path"].astype(str).tolist(),
        source_hashes=[s[2] for s in sources],
        source_faults=[s[3] for s in sources],
        source=torch.stack([s[1] for s in sources]),
        people=[{"view": p.view, "sex": p.sex, "age": p.age} for p in table.itertuples()],
        exemplar=torch.stack([e[0] for e in exemplars]),
        exemplar_hashes=[e[1] for e in exemplars],
        exemplar_faults=[e[2] for e in exemplars],
        paths=paths,
    )


def exemplars_of(row: dict[str, Any]) -> list[str]:
    """A row's exemplars in the order in which they are tried."""
    return [row["exemplar_id"], *filter(None, row["alternates"].split("|"))]


def read_square(path: Path | None, size: int) -> tuple[Tensor, str, str | None]:
    """An image as a square `[1, S, S]`, its file's hash, and what is wrong with it, or None."""
    _, square, digest, fault = _read(path, size)
    return square, digest, fault


def _path(manifest: Manifest, image_id: str) -> Path | None:
    """An image's file; None where a link leads out of the archive."""
    try:
        return manifest.path(image_id)
    except UserError:
        return None


def _read(path: Path | None, size: int) -> tuple[StoredImage | None, Tensor, str, str | None]:
    if path is None:
        return None, torch.zeros(1, size, size), "", "its path leads out of the archive's folder"
    try:
        stored = read_stored(path)
        return stored, to_square(torch.as_tensor(stored.display())[None], size), sha256_file(path), None
    except (UserError, OSError) as error:
        return None, torch.zeros(1, size, size), "", str(error)
