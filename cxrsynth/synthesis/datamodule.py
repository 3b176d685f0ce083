"""Feeds the plan, one group of rows at a time, to the synthesis task."""

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.split import read_splits
from cxrsynth.errors import UserError
from cxrsynth.files import remove_leftovers
from cxrsynth.synthesis.ahead import Ahead
from cxrsynth.synthesis.group import Group, read_group
from cxrsynth.synthesis.plan import check_training, named_images, read_plan
from cxrsynth.synthesis.provenance import is_made


class GroupDataset(Dataset[Group]):
    """The groups of a plan that are not made yet."""

    def __init__(self, groups: list[list[dict[str, Any]]], manifest: Manifest, size: int) -> None:
        self.groups = groups
        self.manifest = manifest
        self.size = size

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Group:
        return read_group(self.groups[index], self.manifest, self.size)


class SynthesisDataModule(L.LightningDataModule):
    """The groups of a plan that are still to be made.

    Args:
        plan: Path of plan.csv.
        manifest: Path of the archive's table.
        out: The run folder, where finished images are looked for.
        batch_size: Groups in a batch. Changes speed, never a byte of the output.
        num_workers: Loader processes. Likewise.
        splits: Path of splits.csv; with it, a plan that uses anyone but training patients is refused.
    """

    def __init__(
        self,
        plan: str,
        manifest: str,
        out: str,
        batch_size: int = 1,
        num_workers: int = 0,
        splits: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer groups than ranks

    def setup(self, stage: str) -> None:
        """Read the plan and leave out those of this rank's groups that are finished for the task's recipe."""
        assert self.trainer is not None
        task: Any = self.trainer.lightning_module
        task.load()
        self.plan = read_plan(self.hparams["plan"])
        self.manifest = Manifest.load(self.hparams["manifest"])
        self._check_ids()
        if self.hparams["splits"] is not None:
            check_training(self.plan, read_splits(self.hparams["splits"]))
        folder = Path(self.hparams["out"])
        if self.trainer.is_global_zero and folder.is_dir():
            for path in [folder, *(path for path in folder.iterdir() if path.is_dir())]:
                remove_leftovers(path)
        groups: list[list[dict[str, Any]]] = [
            [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
            for _, rows in self.plan.groupby("group", sort=True)
        ]
        # each rank looks at its own share only: what was made is hashed, and there may be much of it
        mine = groups[self.trainer.global_rank :: self.trainer.world_size]
        self.groups = [g for g in mine if not all(is_made(folder, row, task.recipe) for row in g)]
        self.size = task.image_size
        task.group_size = max((len(g) for g in groups), default=1)

    def predict_dataloader(self) -> Ahead:
        """Batches are lists of what the task's `prepare` makes of groups."""
        assert self.trainer is not None
        task: Any = self.trainer.lightning_module
        loader = DataLoader(
            GroupDataset(self.groups, self.manifest, self.size),
            batch_size=self.hparams["batch_size"],
            num_workers=self.hparams["num_workers"],
            collate_fn=list,
        )
        # the writer takes names from the plan's rows and needs no indices
        warnings.filterwarnings("ignore", "Couldn't infer the batch indices")
        return Ahead(loader, task.prepare)

    def transfer_batch_to_device(self, batch: list[Any], device: torch.device, dataloader_idx: int) -> list[Any]:
        """Leave the batch where it is: stored images stay on the CPU, and the task moves the squares itself."""
        return batch

    def _check_ids(self) -> None:
        unknown = sorted(named_images(self.plan) - set(self.manifest.table["image_id"]))
        if unknown:
            raise UserError(
                f"plan {self.hparams['plan']} names {len(unknown)} images that {self.hparams['manifest']} lacks, "
                f"{unknown[0]!r} first; make the plan again from this manifest"
            )
