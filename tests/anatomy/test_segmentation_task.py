from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch

from cxrsynth.anatomy.augment import OrganAugment
from cxrsynth.anatomy.datamodule import MaskDataModule
from cxrsynth.anatomy.task import SegmentationTask
from cxrsynth.data.phantom import write_phantom
from cxrsynth.errors import UserError

SMALL = {"size": 64, "channels": [8, 16]}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom"), count=30, size=64, seed=3)


@pytest.fixture(scope="module")
def lungs_only(tmp_path_factory) -> Path:
    """An archive whose hearts were never drawn."""
    folder = tmp_path_factory.mktemp("lungs")
    path = write_phantom(folder, count=12, size=64, seed=4)
    masks = pd.read_csv(folder / "masks.csv")
    masks[masks.structure == "lungs"].to_csv(folder / "masks.csv", index=False)
    return path


def batch_of(data: MaskDataModule) -> dict:
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def test_a_batch_says_which_masks_are_known(archive, lungs_only):
    both = batch_of(MaskDataModule(str(archive), size=64, batch_size=4))
    assert both["image"].shape == (4, 1, 64, 64)
    assert both["mask"].shape == (4, 2, 64, 64)
    assert both["known"].all()
    lungs = batch_of(MaskDataModule(str(lungs_only), size=64, batch_size=4))
    assert lungs["known"].tolist() == [[True, False]] * 4


def test_the_extra_archive_is_trained_on_at_its_share_and_nowhere_else(archive, lungs_only):
    data = MaskDataModule(str(lungs_only), size=64, extra_manifest=str(archive), extra_share=0.25, batch_size=6)
    data.setup("fit")
    loader = data.train_dataloader()
    drawn = [i for _ in range(60) for b in loader for i in b["image_id"]]
    share = sum(i.startswith("phantom_3") for i in drawn) / len(drawn)
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / len(drawn)) ** 0.5
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert all(i.startswith("phantom_4") for b in loader for i in b["image_id"])


def test_patients_stay_in_one_split(archive):
    data = MaskDataModule(str(archive), size=64)
    patient = pd.read_csv(archive).set_index("image_id").patient_id
    seen = [set(patient[data.dataset(split).ids]) for split in ("train", "val", "test")]
    assert sum(map(len, seen)) == len(set.union(*seen)) == patient.nunique()


def test_an_unknown_structure_teaches_nothing(archive):
    task = SegmentationTask(**SMALL)
    batch = batch_of(MaskDataModule(str(archive), size=64, batch_size=4))
    batch["known"] = torch.tensor([[True, False]] * 4)
    reference = task._loss(batch)
    batch["mask"][:, 1] = 1 - batch["mask"][:, 1]
    assert task._loss(batch).equal(reference)
    batch["known"][:] = False
    assert task._loss(batch) == 0


def test_the_loss_is_dice_plus_cross_entropy(archive):
    task = SegmentationTask(["lungs"], **SMALL).eval()
    batch = batch_of(MaskDataModule(str(archive), structures=["lungs"], size=64, batch_size=4))
    p, m = task(batch["image"]).sigmoid().double(), batch["mask"].double()
    dice = 1 - (2 * (p * m).sum((1, 2, 3)) + 1e-5) / (p.sum((1, 2, 3)) + m.sum((1, 2, 3)) + 1e-5)
    entropy = -(m * p.log() + (1 - m) * (1 - p).log()).mean((1, 2, 3))
    torch.testing.assert_close(task._loss(batch).double(), (dice + entropy).mean(), rtol=1e-4, atol=1e-5)


def test_training_learns_the_lungs(archive, tmp_path):
    L.seed_everything(0)
    task = SegmentationTask(**SMALL, lr=0.02)
    data = MaskDataModule(str(archive), size=64, batch_size=8, augment=False)
    trainer = L.Trainer(
        max_steps=80,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    trainer.fit(task, data)
    scores = trainer.test(task, data, verbose=False)[0]
    assert scores["test/dice/lungs"] > 0.8
    assert scores["test/dice/heart"] > 0.5


def test_augmentation_moves_image_and_mask_together():
    """A white square on black is its own mask: geometry alone must keep them equal."""
    augment = OrganAugment()
    square = torch.zeros(16, 1, 64, 64)
    square[..., 20:44, 16:40] = 1
    moved = augment.move(torch.cat([square, square], 1))
    assert moved[:, :1].equal(moved[:, 1:])
    assert not moved[:, :1].equal(square)
    image, mask = augment(square, square)
    assert image.min() >= 0
    assert image.max() <= 1
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_an_archive_without_masks_is_refused(archive, tmp_path):
    (tmp_path / "metadata.csv").write_text("image_id,path,labels\na,a.png,No Finding\n")
    with pytest.raises(UserError, match="no mask of lungs or heart"):
        MaskDataModule(str(tmp_path / "metadata.csv")).setup()
    with pytest.raises(UserError, match="extra_share"):
        MaskDataModule(str(archive), extra_share=1.5)
