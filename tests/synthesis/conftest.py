"""The engine at tiny size: untrained networks paint noise, which is enough to test what must hold for every image."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest

from cxrsynth.attention.task import GLoRITask
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.phantom import write_phantom
from cxrsynth.data.split import make_splits, write_splits
from cxrsynth.inpainting.task import InpaintingTask
from cxrsynth.synthesis.plan import make_plan, write_plan

FINDINGS = ["Effusion", "Nodule"]


@pytest.fixture(scope="session")
def save() -> Callable[[L.LightningModule, Path], str]:
    """Writes a task's checkpoint."""

    def write(task: L.LightningModule, path: Path) -> str:
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        trainer.strategy.connect(task)
        trainer.save_checkpoint(path)
        return str(path)

    return write


@pytest.fixture(scope="session")
def archive(tmp_path_factory, save) -> Path:
    """A phantom archive, its splits, a plan of 7 images in groups of 3, and two untrained networks."""
    folder = tmp_path_factory.mktemp("archive")
    manifest = Manifest.load(write_phantom(folder / "phantom", count=60, size=64, seed=1))
    splits = make_splits(manifest)
    write_splits(splits, folder / "splits.csv")
    write_plan(folder / "plan.csv", make_plan(manifest, splits, FINDINGS, count=7, group_size=3))
    L.seed_everything(0)
    sizes = {
        "image_size": 64,
        "architecture": {"image_size": 64, "patch_size": 16, "dim": 32, "depth": 4, "num_heads": 2},
    }
    save(GLoRITask(FINDINGS, **sizes, dim=32, num_heads=2, ffn_hidden=32), folder / "attention.ckpt")
    save(InpaintingTask(FINDINGS, size=32, channels=[16, 16], attention=[False, True]), folder / "inpainting.ckpt")
    return folder
