"""The Lightning door to a manifest."""

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from cxrsynth.chance import seed_place
from cxrsynth.data.augment import build_augment
from cxrsynth.data.dataset import CXRDataset, has_findings
from cxrsynth.data.geometry import SQUARES
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.maps import MapStore
from cxrsynth.data.masks import MaskStore
from cxrsynth.data.sampling import BalancedSampler, NaturalSampler
from cxrsynth.data.split import SPLITS, make_splits, read_splits
from cxrsynth.errors import UserError

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class CXRDataModule(L.LightningDataModule):
    """Batches of a manifest (see docs/design.md, "Batch"), split by patient.

    Args:
        manifest: The manifest's file.
        size: Side of the square images, pixels.
        findings: Findings of the targets, in this order; None = all that the manifest names.
        batch_size: Images in a batch.
        num_workers: Loader processes; of use only for archives too large for the cache.
        splits: A `splits.csv`; None = the manifest is split with `fractions` and `seed`.
        fractions: Shares of train, val and test.
        seed: Seed of the split and of the order of the images.
        views: Only images of these views.
        sites: Only images of these sites.
        sampling: How training images are drawn: "natural" (each once an epoch) or "balanced" (findings evenly).
        healthy_share: With balanced sampling, the probability of a healthy image.
        maps: File of attention maps (see `MapStore`), or "masks" to use the manifest's own masks and boxes of findings
            in their place; batches then have `map` and `finding`.
        lungs: Batches then have `lungs`, masks of both lungs, 0 where the manifest has none.
        extra_manifest: Synthetic images, added to train only.
        copies: A table `image_id,copies`: how often an epoch shows a training image, real or extra. 0 leaves it out;
            images that the table does not name are shown once.
        augment: Strength of the augmentation of training batches, 0 = none, 1 = usual.
        predict_split: What `predict` sees: "train", "val", "test" or "all".
        cache_gib: Decoded images are kept in memory if they fit in this many GiB.
        square: "pad" adds air beside an image; "crop" cuts the ends of its long side off, at 8 bits, as CheXFound's
            evaluation does.

    Attributes:
        findings: The findings, once set up.
        split_table: `image_id, patient_id, split` of the whole manifest.
    """

    def __init__(
        self,
        manifest: str,
        size: int = 128,
        findings: list[str] | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        splits: str | None = None,
        fractions: list[float] | None = None,
        seed: int = 0,
        views: list[str] | None = None,
        sites: list[str] | None = None,
        sampling: str = "natural",
        healthy_share: float = 0.5,
        maps: str | None = None,
        lungs: bool = False,
        extra_manifest: str | None = None,
        copies: str | None = None,
        augment: float = 0.0,
        predict_split: str = "all",
        cache_gib: float = 2.0,
        square: str = "pad",
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)  # a task may have arguments of the same names, which loggers refuse
        if sampling not in ("natural", "balanced"):
            raise UserError(f"sampling is {sampling!r}; use natural or balanced")
        if predict_split not in (*SPLITS, "all"):
            raise UserError(f"predict_split is {predict_split!r}; use train, val, test or all")
        if square not in SQUARES:
            raise UserError(f"square is {square!r}; use {' or '.join(SQUARES)}")
        if square != "pad" and (lungs or maps is not None):
            raise UserError(f"square is {square}, but maps and lungs are those of padded images; use pad with them")
        if not 0 <= healthy_share <= 1:
            raise UserError(f"healthy_share is {healthy_share}; give a probability")
        self.batch_size = batch_size
        self.findings: list[str] = findings or []
        self.split_table = pd.DataFrame()
        self.augment = build_augment(augment)
        self._copies: dict[str, int] = {}
        self._manifests: dict[str, Manifest] = {}
        self._datasets: dict[str, CXRDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the manifest, split it, and decode the images that the stage needs."""
        self._divide()
        names = (self.hparams["predict_split"],) if stage == "predict" else STAGES.get(stage or "", SPLITS)
        for name in names:
            self._dataset(name)

    @property
    def unreadable(self) -> dict[str, str]:
        """image_id to what is wrong with it, of images that had to be set aside so far."""
        return {image_id: why for dataset in self._datasets.values() for image_id, why in dataset.unreadable.items()}

    def table(self, split: str) -> pd.DataFrame:
        """The manifest's rows of a split ("train", "val", "test" or "all") that batches are made of."""
        self._divide()
        return self._manifests[split].table

    def manifest(self, split: str) -> Manifest:
        """The manifest of a split."""
        self._divide()
        return self._manifests[split]

    def train_dataloader(self) -> DataLoader:
        """Training batches, in an order that the seed and the epoch decide."""
        dataset = self._dataset("train")
        has = self._drawable(dataset)
        if self.hparams["sampling"] == "natural":
            return self._loader(
                dataset,
                NaturalSampler(has, self.hparams["seed"], copies=self._shown(dataset)),
                drop_last=len(dataset) >= self.batch_size,
            )
        if max(self._copies.values(), default=1) > 1:
            raise UserError("sampling is 'balanced', but copies shows images more than once; use natural sampling")
        sampler = BalancedSampler(has, dataset.manifest.healthy, self.hparams["healthy_share"], self.hparams["seed"])
        empty = [f for f, rows in zip(self.findings, sampler.rows, strict=True) if not len(rows)]
        if empty:
            warnings.warn(f"no training image has {', '.join(empty)}; balanced sampling leaves them out", stacklevel=2)
        return self._loader(dataset, sampler, drop_last=len(dataset) >= self.batch_size)

    def val_dataloader(self) -> DataLoader:
        """All validation images in the table's order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader:
        """All test images in the table's order."""
        return self._in_order("test")

    def predict_dataloader(self) -> DataLoader:
        """All images of `predict_split` in the table's order."""
        return self._in_order(self.hparams["predict_split"])

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augment training batches on the device."""
        if self.trainer is None or not self.trainer.training:
            return batch
        seed_place(self.hparams["seed"], 1 + self.trainer.fit_loop.total_batch_idx, self.trainer.global_rank)
        names = [name for name in ("map", "lungs") if name in batch]
        batch["image"], *moved = self.augment(batch["image"], *(batch[name] for name in names))
        batch |= zip(names, moved, strict=True)
        return batch

    def _divide(self) -> None:
        if self._manifests:
            return
        options = self.hparams
        whole = Manifest.load(options["manifest"])
        self.findings = whole.resolve(options["findings"])
        if options["splits"] is None:
            self.split_table = make_splits(whole, options["fractions"], options["seed"])
        else:
            self.split_table = read_splits(options["splits"])
        split_of = dict(zip(self.split_table.image_id, self.split_table.split, strict=True))
        chosen = whole.select(options["views"], options["sites"])
        homeless = [image_id for image_id in chosen.table.image_id if image_id not in split_of]
        if homeless:
            raise UserError(
                f"splits has no row for image {homeless[0]!r} ({len(homeless)} are missing); make the split anew"
            )
        self._manifests["all"] = chosen
        for name in SPLITS:
            self._manifests[name] = chosen.select(ids={i for i in chosen.table.image_id if split_of[i] == name})
        if options["extra_manifest"] is not None:
            extra = Manifest.load(options["extra_manifest"])
            self._refuse_leak(extra)
            self._manifests["train"] = self._manifests["train"] + extra
        if options["copies"] is not None:
            self._copies = read_copies(options["copies"], self._manifests["train"])
            left = {i for i in self._manifests["train"].table.image_id if self._copies.get(i, 1)}
            self._manifests["train"] = self._manifests["train"].select(ids=left)

    def _refuse_leak(self, extra: Manifest) -> None:
        """Images made from a patient of val or test must not be trained on."""
        held_out = self.split_table[self.split_table.split != "train"]
        for column, forbidden in (
            ("patient_id", set(held_out.patient_id)),
            ("source_id", set(held_out.image_id)),
            ("exemplar_id", set(held_out.image_id)),
        ):
            leaks = sorted(set(extra.table.get(column, pd.Series(dtype=str))) & forbidden - {""})
            if leaks:
                raise UserError(
                    f"extra_manifest: {column} {leaks[0]!r} belongs to val or test ({len(leaks)} do); "
                    "only images made from training patients may be added"
                )

    def _dataset(self, name: str) -> CXRDataset:
        self._divide()
        if name not in self._datasets:
            options = self.hparams
            manifest = self._manifests[name]
            maps: MapStore | MaskStore | None = None
            if options["maps"] is not None:
                marked = options["maps"] == "masks"
                maps = MaskStore(manifest, options["size"]) if marked else MapStore(options["maps"])
            fits = 2 * len(manifest) * options["size"] ** 2 <= options["cache_gib"] * 2**30
            dataset = CXRDataset(
                manifest, self.findings, options["size"], maps, fits, options["lungs"], options["square"]
            )
            if dataset.unreadable:
                reason = next(iter(dataset.unreadable.values()))
                warnings.warn(
                    f"{len(dataset.unreadable)} {name} images set aside as unreadable, e.g. {reason}", stacklevel=2
                )
            self._datasets[name] = dataset
            self._manifests[name] = dataset.manifest
        return self._datasets[name]

    def _shown(self, dataset: CXRDataset) -> np.ndarray:
        return np.array([self._copies.get(image_id, 1) for image_id in dataset.ids], np.int64)

    def _drawable(self, dataset: CXRDataset) -> np.ndarray:
        has = has_findings(dataset.targets)
        return has if dataset.maps is None else has & dataset.maps.has(dataset.ids, self.findings)

    def _in_order(self, name: str) -> DataLoader:
        dataset = self._dataset(name)
        return self._loader(dataset, NaturalSampler(self._drawable(dataset), self.hparams["seed"], shuffle=False))

    def _loader(
        self, dataset: CXRDataset, sampler: NaturalSampler | BalancedSampler, drop_last: bool = False
    ) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.hparams["num_workers"],
            persistent_workers=self.hparams["num_workers"] > 0,
            collate_fn=_as_is,
            drop_last=drop_last,
        )


def read_copies(path: str | Path, train: Manifest) -> dict[str, int]:
    """How often an epoch shows each training image that a table `image_id,copies` names.

    Raises:
        UserError: The table cannot be read, names an image that is not trained on, or leaves none.
    """
    try:
        table = pd.read_csv(path, dtype={"image_id": "str", "copies": "int64"})
        copies = dict(zip(table.image_id, table.copies, strict=True))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"copies {path} cannot be read ({error}); it needs the columns image_id and copies") from error
    known = set(train.table.image_id)
    if strange := sorted(set(copies) - known):
        raise UserError(f"copies {path} names {strange[0]!r}, which is no training image; name training images only")
    if min(copies.values(), default=1) < 0 or not any(copies.get(image_id, 1) for image_id in known):
        raise UserError(f"copies {path} leaves no training image; give counts of 0 or more, and one above 0")
    return copies


def _as_is(batch: Any) -> Any:
    return batch
