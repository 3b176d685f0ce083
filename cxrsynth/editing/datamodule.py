"""A table of requests, row by row, for `cxrsynth predict`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from torch.utils.data import DataLoader

from cxrsynth.editing.command import parse_box
from cxrsynth.errors import UserError, first_line

TEXTS = ("finding", "mask", "map_from", "text", "view", "sex")
COLUMNS = ("id", "image", *TEXTS, "box", "age", "full", "remove", "strength", "seed")
FILES = ("image", "mask", "map_from")

Request = dict[str, Any]


class EditDataModule(L.LightningDataModule):
    """The rows of a table of requests.

    Args:
        requests: CSV with the columns `id` and `image`, and any of `finding, mask, box, map_from, full, text, view,
            sex, age, remove, strength, seed`, which mean what they mean to `cxrsynth.editing.edit`; a blank field is
            not asked. Paths are relative to the table.
    """

    def __init__(self, requests: str) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        """Read the table.

        Raises:
            UserError: It is missing, has a strange column, lacks one, or names two results alike.
        """
        self.requests = read_requests(self.hparams["requests"])

    def predict_dataloader(self) -> DataLoader[Request]:
        """Batches are lists of one request: each is painted on its own, so that no batch can change a byte."""
        return DataLoader(self.requests, batch_size=1, collate_fn=list)  # type: ignore[arg-type]


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


PARSERS: dict[str, Callable[[str], Any]] = {
    **{"age": float, "strength": float, "seed": int},
    **{"box": parse_box, "full": _truth, "remove": _truth},
}


def read_requests(path: str | Path) -> list[Request]:
    """The rows of a table of requests: `id`, and the keywords of `edit` that are asked.

    Raises:
        UserError: See `EditDataModule.setup`; or a field that cannot be read.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False).fillna("")  # rows may be short
    except (OSError, ValueError) as error:
        raise UserError(f"requests {path} cannot be read ({first_line(error)}); give a CSV file") from error
    missing, strange = [c for c in ("id", "image") if c not in table], sorted(set(map(str, table)) - set(COLUMNS))
    if missing or strange:
        what = f"lacks {', '.join(missing)}" if missing else f"has the strange column {strange[0]!r}"
        raise UserError(
            f"requests {path} {what}; its columns are {', '.join(COLUMNS)}, of which id and image are needed"
        )
    twice = table["id"][table["id"].duplicated() | ~table["id"].str.fullmatch(r"[\w-][\w.-]*")]
    if len(twice):
        raise UserError(f"requests {path}: id {twice.iloc[0]!r} is there twice or is no name for a file; change it")
    return [_request(row, path) for row in table.to_dict("records")]


def _request(row: dict[Any, str], path: Path) -> Request:
    asked: Request = {name: value.strip() for name, value in row.items() if value.strip()}
    try:
        for name in FILES:
            if name in asked:
                asked[name] = str(path.parent / asked[name])
        for name, parse in PARSERS.items():
            if name in asked:
                asked[name] = parse(asked[name])
    except ValueError as error:
        raise UserError(f"requests {path}, id {row['id']!r}: {error}; correct the row") from error
    asked.setdefault("age", math.nan)
    return asked
