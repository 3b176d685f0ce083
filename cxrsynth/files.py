"""Files written whole or not at all, hashes, and paths that stay inside their root."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from cxrsynth.errors import UserError


def write_atomic(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file through a temporary name, fsync and rename, so that it is whole or absent.

    Args:
        path: Where the file will be. Its folder is made if missing.
        write: Called with a binary file object to write into.

    Returns:
        The path.

    Raises:
        UserError: The folder cannot be written to or the disk is full. Nothing is left behind.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only the owner can read
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files that a killed process left in a folder. No other process may be writing there."""
    for path in Path(folder).glob(".*.part"):
        path.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write bytes atomically (see `write_atomic`)."""
    return write_atomic(path, lambda file: file.write(content))


def write_text(path: str | Path, content: str) -> Path:
    """Write UTF-8 text atomically (see `write_atomic`)."""
    return write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> Path:
    """Write indented JSON atomically, keys in the order given."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: str | Path, relative: str) -> Path:
    """Join an untrusted relative path to its root.

    Raises:
        UserError: The result, with links followed, lies outside the root.
    """
    base = Path(root).resolve()
    try:
        path = (base / relative).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, links in a circle
        raise UserError(f"path {relative[:80]!r} is no path ({error}); correct it") from error
    if not path.is_relative_to(base):
        raise UserError(f"path {relative!r} leaves its folder {base}; paths must stay inside it")
    return path
