"""Feeds the plan, one group of rows at a time, to the synthesis task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cxrsynth.data.geometry import to_square
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import StoredImage, read_stored
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file
from cxrsynth.synthesis.plan import read_plan
from cxrsynth.synthesis.provenance import is_made


@dataclass(frozen=True)
class Group:
    """Rows of the plan that share one sampler forward.

    Attributes:
        rows: The plan's rows.
        sources: The healthy images, as stored.
        source_paths: Their paths as the manifest gives them.
        source_hashes: SHA-256 of their files; empty where unreadable.
        source: `[n, 1, S, S]`, the sources as squares.
        exemplar: `[n, 1, S, S]`, the exemplars as squares.
        broken: For each row, why it cannot be made (an unreadable file), or None.
    """

    rows: list[dict[str, Any]]
    sources: list[StoredImage | None]
    source_paths: list[str]
    source_hashes: list[str]
    source: Tensor
    exemplar: Tensor
    broken: list[str | None]


class GroupDataset(Dataset[Group]):
    """The groups of a plan that are not made yet."""

    def __init__(self, groups: list[list[dict[str, Any]]], manifest: Manifest, size: int) -> None:
        self.groups = groups
        self.manifest = manifest
        self.size = size

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Group:
        rows = self.groups[index]
        read = [self._read(row) for row in rows]
        paths = self.manifest.table.set_index("image_id")["path"]
        return Group(
            rows=rows,
            sources=[r[0] for r in read],
            source_paths=[str(paths[row["source_id"]]) for row in rows],
            source_hashes=[r[1] for r in read],
            source=torch.stack([r[2] for r in read]),
            exemplar=torch.stack([r[3] for r in read]),
            broken=[r[4] for r in read],
        )

    def _read(self, row: dict[str, Any]) -> tuple[StoredImage | None, str, Tensor, Tensor, str | None]:
        """Source, its hash, both squares and, where a file cannot be read, why."""
        try:
            path = self.manifest.path(row["source_id"])
            source = read_stored(path)
            exemplar = read_stored(self.manifest.path(row["exemplar_id"]))
            squares = [to_square(torch.as_tensor(s.display())[None], self.size) for s in (source, exemplar)]
            return source, sha256_file(path), squares[0], squares[1], None
        except UserError as error:
            empty = torch.zeros(1, self.size, self.size)
            return None, "", empty, empty, f"unreadable: {error}"


class SynthesisDataModule(L.LightningDataModule):
    """The groups of a plan that are still to be made.

    Args:
        plan: Path of plan.csv.
        manifest: Path of the archive's table.
        out: The run folder, where finished images are looked for.
        batch_size: Groups in a batch. Changes speed, never a byte of the output.
        num_workers: Loader processes. Likewise.
    """

    def __init__(self, plan: str, manifest: str, out: str, batch_size: int = 1, num_workers: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        """Read the plan and leave out the groups that are finished for the task's recipe."""
        assert self.trainer is not None
        task: Any = self.trainer.lightning_module
        task.load()
        self.plan = read_plan(self.hparams["plan"])
        self.manifest = Manifest.load(self.hparams["manifest"])
        self._check_ids()
        folder = Path(self.hparams["out"])
        groups: list[list[dict[str, Any]]] = [
            [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
            for _, rows in self.plan.groupby("group", sort=True)
        ]
        self.groups = [g for g in groups if not all(is_made(folder, row, task.recipe) for row in g)]
        self.size = task.image_size
        task.group_size = max((len(g) for g in groups), default=1)

    def predict_dataloader(self) -> DataLoader[Group]:
        """Batches are lists of `Group`."""
        return DataLoader(
            GroupDataset(self.groups, self.manifest, self.size),
            batch_size=self.hparams["batch_size"],
            num_workers=self.hparams["num_workers"],
            collate_fn=list,
        )

    def transfer_batch_to_device(self, batch: list[Group], device: torch.device, dataloader_idx: int) -> list[Group]:
        """Leave the batch where it is: stored images stay on the CPU, and the task moves the squares itself."""
        return batch

    def _check_ids(self) -> None:
        planned = pd.concat([self.plan["source_id"], self.plan["exemplar_id"]])
        unknown = sorted(set(planned) - set(self.manifest.table["image_id"]))
        if unknown:
            raise UserError(
                f"plan {self.hparams['plan']} names {len(unknown)} images that {self.hparams['manifest']} lacks, "
                f"{unknown[0]!r} first; make the plan again from this manifest"
            )
