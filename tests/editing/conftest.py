from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from cxrsynth.attention.task import GLoRITask
from cxrsynth.inpainting.task import InpaintingTask

FINDINGS = ["Effusion", "Nodule"]
TINY = {"size": 32, "channels": [16, 16], "attention": [False, True]}


def save(task: L.LightningModule, path: Path) -> Path:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Path:
    """A run's folder of untrained networks: they paint noise, enough for what must hold of every image."""
    folder = tmp_path_factory.mktemp("checkpoints")
    L.seed_everything(0)
    task = InpaintingTask(FINDINGS, **TINY)
    lesion = torch.zeros(1, 1, 64, 64)
    lesion[..., 40:60, 5:25] = 1
    task.average_maps.add(lesion, torch.tensor([0]))
    save(task, folder / "inpainting.ckpt")
    told = InpaintingTask(FINDINGS, **TINY, fields=["view", "sex", "age"])
    save(told, folder / "told.ckpt")
    vit = {"image_size": 64, "patch_size": 16, "dim": 32, "depth": 4, "num_heads": 2}
    save(
        GLoRITask(FINDINGS, image_size=64, architecture=vit, dim=32, num_heads=2, ffn_hidden=32),
        folder / "attention.ckpt",
    )
    return folder


def draw_film(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    broad = ndimage.zoom(rng.random((6, 6)), (height / 6, width / 6), order=3, grid_mode=True, mode="nearest")
    return np.clip(0.25 + 0.5 * broad + 0.03 * rng.standard_normal((height, width)), 0.1, 0.9)


@pytest.fixture(scope="session")
def film() -> Callable[..., np.ndarray]:
    """Draws something like a film, `[H, W]` in [0.1, 0.9]: broad shapes and fine grain."""
    return draw_film


@pytest.fixture(scope="session")
def write_film() -> Callable[..., Path]:
    """Writes such a film as PNG of 8 bits, or of 12 or 16 in 16."""

    def write(path: Path, height: int, width: int, bits: int) -> Path:
        values = np.round(draw_film(height, width) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
        Image.fromarray(values).save(path)
        return path

    return write
