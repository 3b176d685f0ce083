"""What `cxrsynth run` works on: a run folder with its configuration, and stages that fill it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrsynth.data.manifest import Manifest

Figures = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run folder and its configuration.

    Attributes:
        folder: `runs/<name>`.
        config: The arguments of `cxrsynth.pipeline.run`, manifest filled in.
    """

    folder: Path
    config: dict[str, Any]

    @property
    def manifest_path(self) -> Path:
        """The archive's table."""
        return Path(self.config["manifest"])

    @property
    def findings(self) -> list[str]:
        """Findings of this run, in the order of the outputs of its networks."""
        return list(self.config["findings"])

    @property
    def maps_file(self) -> Path:
        """Attention maps of the training patients, which shape the inpainter's regions."""
        return self.folder / "stages" / "attention_maps.npz"

    def checkpoint(self, name: str) -> Path:
        """Path of a stage's checkpoint."""
        return self.folder / "checkpoints" / f"{name}.ckpt"

    def stage_file(self, name: str) -> Path:
        """Path of a stage's record."""
        return self.folder / "stages" / f"{name}.json"

    def record(self, name: str) -> dict[str, Any]:
        """A stage's record; empty when it has not run."""
        path = self.stage_file(name)
        return json.loads(path.read_text()) if path.is_file() else {}

    def manifest(self) -> Manifest:
        """The archive, narrowed to the views and sites of this run."""
        return Manifest.load(self.manifest_path).select(views=self.config["views"], sites=self.config["sites"])

    def datamodule(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `CXRDataModule`: what all stages share, then the stage's own."""
        shared = {
            "manifest": str(self.manifest_path),
            "splits": str(self.folder / "splits.csv"),
            "findings": self.findings,
            "views": self.config["views"],
            "sites": self.config["sites"],
            "seed": self.config["seed"],
        }
        return {**shared, **settings}


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: Name of its record and checkpoint.
        purpose: What it does, for the console.
        run: Makes the outputs and returns figures for the report.
        outputs: Files it makes.
        settings: Keys of the configuration that it depends on.
        needs: Stages whose outputs it reads.
        inputs: Files from outside the run folder that it reads.
    """

    name: str
    purpose: str
    run: Callable[[Run, str], Figures]
    outputs: Callable[[Run], list[Path]]
    settings: tuple[str, ...]
    needs: tuple[str, ...] = ()
    inputs: Callable[[Run], list[Path]] = lambda run: []
