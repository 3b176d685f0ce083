"""Reads a run folder, whatever of it is there."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cxrsynth.errors import UserError
from cxrsynth.evaluation.predictions import read_predictions
from cxrsynth.synthesis.provenance import read_provenance

CLASSIFIERS = {"real": "classification", "synthetic": "classification_synthetic"}


@dataclass(frozen=True)
class RunFolder:
    """The parts of a run folder (docs/design.md, section 3), each read when asked for and None when it was not made.

    Attributes:
        path: The folder.
    """

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.yaml`, empty when missing."""
        path = self.path / "config.yaml"
        return yaml.safe_load(path.read_text("utf-8")) or {} if path.is_file() else {}

    @cached_property
    def manifest(self) -> Path | None:
        """The archive's table, if it is where the configuration says (relative to the run folder)."""
        path = self.path / str(self.config.get("manifest") or "-")
        return path if path.is_file() else None

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """The records of the stages that ran, in the order in which they ended; the report's own is left out."""
        files = sorted((self.path / "stages").glob("*.json"), key=lambda file: (file.stat().st_mtime_ns, file.name))
        records = [json.loads(file.read_text("utf-8")) for file in files]
        return [record for record in records if record["stage"] != "report"]

    @cached_property
    def splits(self) -> pd.DataFrame | None:
        """`splits.csv`."""
        return self._table("splits.csv", text=("image_id", "patient_id", "split"))

    @cached_property
    def records(self) -> list[dict[str, Any]] | None:
        """`provenance.jsonl`."""
        return read_provenance(self.path) if (self.path / "provenance.jsonl").is_file() else None

    @cached_property
    def refused(self) -> pd.DataFrame | None:
        """`refused.csv`: `id, source_id, exemplar_id, finding, refused` (the reason)."""
        return self._table("refused.csv", text=("id", "source_id", "exemplar_id", "finding", "refused"))

    @cached_property
    def effects(self) -> pd.DataFrame | None:
        """`study/effects.csv` (see `cxrsynth.evaluation.effects`)."""
        return self._table("study/effects.csv", text=("id", "source_patient"))

    @cached_property
    def localisation(self) -> pd.DataFrame | None:
        """`study/localisation.csv`: one row a lesion."""
        return self._table("study/localisation.csv", text=("image_id",))

    @cached_property
    def predictions(self) -> dict[str, pd.DataFrame]:
        """Test predictions of the classifiers "real" and "synthetic", those that exist."""
        paths = {arm: self.path / "study" / f"predictions_{arm}.csv" for arm in CLASSIFIERS}
        return {arm: read_predictions(path) for arm, path in paths.items() if path.is_file()}

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """Losses of the classifiers "real" and "synthetic", those that exist: `step, train/loss, val/loss`."""
        tables = {arm: self._table(f"logs/{stage}/metrics.csv") for arm, stage in CLASSIFIERS.items()}
        return {arm: table for arm, table in tables.items() if table is not None and "step" in table}

    @cached_property
    def not_run(self) -> list[str]:
        """Parts that the report cannot show because they were not made."""
        parts = {
            "splits": self.splits,
            "images": self.records,
            "sources": self.manifest,
            "effects": self.effects,
            "localisation": self.localisation,
            "classifier, real images": self.predictions.get("real"),
            "classifier, real and synthetic images": self.predictions.get("synthetic"),
        }
        return [name for name, part in parts.items() if part is None]

    def _table(self, name: str, text: tuple[str, ...] = ()) -> pd.DataFrame | None:
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return pd.read_csv(path, dtype=dict.fromkeys(text, str))
        except pd.errors.EmptyDataError:
            return None
        except ValueError as error:
            raise UserError(f"{path} cannot be read ({error}); remove it and run its stage again") from error


def open_run(folder: str | Path) -> RunFolder:
    """A run folder.

    Raises:
        UserError: The folder does not exist or holds nothing of a run.
    """
    path = Path(folder)
    if not any((path / name).exists() for name in ("config.yaml", "stages", "provenance.jsonl")):
        raise UserError(f"run folder {path} holds no run; give the folder that `cxrsynth run` wrote, such as runs/demo")
    return RunFolder(path)
