"""Images with masks of organs, out of a manifest's masks.csv."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, WeightedRandomSampler

from cxrsynth.anatomy.augment import OrganAugment
from cxrsynth.data.geometry import to_square
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_image
from cxrsynth.data.split import SPLITS, make_splits, read_splits
from cxrsynth.errors import UserError
from cxrsynth.files import inside


class MaskDataset(Dataset[dict[str, Any]]):
    """Images of a manifest that have a mask of some structure, decoded once and kept in memory.

    Args:
        manifest: With masks.
        structures: C structures of the masks.
        size: Side of the squares, pixels.
    """

    def __init__(self, manifest: Manifest, structures: Sequence[str], size: int):
        self.ids = manifest.table.image_id.tolist()
        self.images = torch.zeros(len(self.ids), 1, size, size)
        self.masks = torch.zeros(len(self.ids), len(structures), size, size, dtype=torch.bool)
        self.known = torch.zeros(len(self.ids), len(structures), dtype=torch.bool)
        row_of = {image_id: row for row, image_id in enumerate(self.ids)}
        for image_id, row in row_of.items():
            self.images[row] = to_square(read_image(manifest.path(image_id)), size)
        wanted = manifest.masks[manifest.masks.structure.isin(list(structures))]
        for image_id, root, path, structure in wanted[["image_id", "root", "path", "structure"]].itertuples(
            index=False
        ):
            place = row_of[image_id], list(structures).index(structure)
            self.masks[place] = to_square(read_image(inside(root, path))[0], size) > 0.5
            self.known[place] = True

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {
            "image": self.images[row],
            "mask": self.masks[row].float(),
            "known": self.known[row],
            "image_id": self.ids[row],
        }


class MaskDataModule(L.LightningDataModule):
    """Batches of `image [B, 1, S, S]`, `mask [B, C, S, S]` in {0, 1}, `known [B, C]` bool and `image_id`.

    Args:
        manifest: The archive; its images without a mask are left out. Split by patient.
        structures: Structures of the masks, as masks.csv names them.
        size: Side of the square images, pixels.
        batch_size: Images in a batch.
        num_workers: Loader processes.
        splits: A `splits.csv`; None = the images with masks are split with `fractions` and `seed`.
        fractions: Shares of train, val and test.
        seed: Seed of the split and of the order of the images.
        extra_manifest: A second archive with masks (a phantom, say), added to train only.
        extra_share: Share of the training images that is drawn from it.
        augment: Whether training images are augmented.

    Raises:
        UserError: No image has a mask of the structures, or a share outside [0, 1].
    """

    def __init__(
        self,
        manifest: str,
        structures: list[str] | None = None,
        size: int = 128,
        batch_size: int = 16,
        num_workers: int = 0,
        splits: str | None = None,
        fractions: list[float] | None = None,
        seed: int = 0,
        extra_manifest: str | None = None,
        extra_share: float = 0.5,
        augment: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters(logger=False)
        if not 0 <= extra_share <= 1:
            raise UserError(f"extra_share is {extra_share}; give a share from 0 to 1")
        self.structures = structures or ["lungs", "heart"]
        self.batch_size = batch_size
        self.augment = OrganAugment()
        self._datasets: dict[str, MaskDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the images with masks of all three splits."""
        if self._datasets:
            return
        options = self.hparams
        manifest = self._masked(options["manifest"])
        table = (
            make_splits(manifest, options["fractions"], options["seed"])
            if options["splits"] is None
            else read_splits(options["splits"])
        )
        for name in SPLITS:
            ids = set(table.image_id[table.split == name]) & set(manifest.table.image_id)
            self._datasets[name] = MaskDataset(manifest.select(ids=ids), self.structures, options["size"])
        if options["extra_manifest"] is not None:
            extra = self._masked(options["extra_manifest"])
            self._datasets["extra"] = MaskDataset(extra, self.structures, options["size"])

    def dataset(self, split: str) -> MaskDataset:
        """The images of "train", "val" or "test" (the extra archive apart)."""
        self.setup()
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader:
        """Training images, drawn with replacement from both archives at their shares."""
        parts = [self._datasets[name] for name in ("train", "extra") if name in self._datasets]
        shares = [1.0] if len(parts) == 1 else [1 - self.hparams["extra_share"], self.hparams["extra_share"]]
        weights = [share / len(part) for part, share in zip(parts, shares, strict=True) for _ in range(len(part))]
        generator = torch.Generator().manual_seed(self.hparams["seed"])
        return DataLoader(
            ConcatDataset(parts),
            batch_size=self.batch_size,
            sampler=WeightedRandomSampler(weights, len(weights), generator=generator),
            num_workers=self.hparams["num_workers"],
            drop_last=len(weights) >= self.batch_size,
        )

    def val_dataloader(self) -> DataLoader:
        """All validation images in the table's order."""
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader:
        """All test images in the table's order."""
        return self._in_order("test")

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augment training batches on the device."""
        if self.hparams["augment"] and self.trainer is not None and self.trainer.training:
            batch["image"], batch["mask"] = self.augment(batch["image"], batch["mask"])
        return batch

    def _in_order(self, name: str) -> DataLoader:
        return DataLoader(self._datasets[name], batch_size=self.batch_size, num_workers=self.hparams["num_workers"])

    def _masked(self, path: str) -> Manifest:
        """The manifest's images that have a mask of one of the structures."""
        manifest = Manifest.load(path)
        ids = set(manifest.masks.image_id[manifest.masks.structure.isin(self.structures)])
        ids &= set(manifest.table.image_id)
        if not ids:
            raise UserError(f"{path} has no mask of {' or '.join(self.structures)} in a masks.csv beside it; add masks")
        return manifest.select(ids=ids)
