from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from cxrsynth.attention.task import GLoRITask
from cxrsynth.autoencoder import Autoencoder, save_autoencoder
from cxrsynth.inpainting.task import InpaintingTask

FINDINGS = ["Effusion", "Nodule"]
TINY = {"size": 32, "channels": [16, 16], "attention": [False, True]}


def save(task: L.LightningModule, path: Path) -> Path:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return path


def disturbed(task: InpaintingTask) -> InpaintingTask:
    """Fresh networks begin with layers of zeros and do not listen to the condition."""
    with torch.no_grad():
        for weight in task.average.module.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return task


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Path:
    """A run's folder of untrained networks: they paint noise, enough for what must hold of every image."""
    folder = tmp_path_factory.mktemp("checkpoints")
    L.seed_everything(0)
    task = disturbed(InpaintingTask(FINDINGS, **TINY))
    lesion = torch.zeros(1, 1, 64, 64)
    lesion[..., 40:60, 5:25] = 1
    task.average_maps.add(lesion, torch.tensor([0]))
    save(task, folder / "inpainting.ckpt")
    told = disturbed(InpaintingTask(FINDINGS, **TINY, fields=["view", "sex", "age"]))
    save(told, folder / "told.ckpt")
    codec = Autoencoder((8, 8, 8), latent_channels=3, norm_groups=4)
    codec.scale.fill_(2.0)
    file = save_autoencoder(codec, folder / "autoencoder.safetensors")
    save(disturbed(InpaintingTask(FINDINGS, **TINY, latent=str(file))), folder / "latent.ckpt")
    file.unlink()  # the checkpoint holds it
    vit = {"image_size": 64, "patch_size": 16, "dim": 32, "depth": 4, "num_heads": 2}
    save(
        GLoRITask(FINDINGS, image_size=64, architecture=vit, dim=32, num_heads=2, ffn_hidden=32),
        folder / "attention.ckpt",
    )
    return folder


def _film(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    broad = ndimage.zoom(rng.random((6, 6)), (height / 6, width / 6), order=3, grid_mode=True, mode="nearest")
    return np.clip(0.25 + 0.5 * broad + 0.03 * rng.standard_normal((height, width)), 0.1, 0.9)


@pytest.fixture(scope="session")
def film() -> Callable[..., np.ndarray]:
    """Draws something like a film, `[H, W]` in [0.1, 0.9]: broad shapes and fine grain."""
    return _film


@pytest.fixture(scope="session")
def write_film() -> Callable[..., Path]:
    """Writes such a film as PNG of 8 bits, or of 12 or 16 in 16."""

    def write(path: Path, height: int, width: int, bits: int) -> Path:
        values = np.round(_film(height, width) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
        Image.fromarray(values).save(path)
        return path

    return write


def _dicom(path: Path, pixels: np.ndarray, **elements) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = elements.pop("syntax", ExplicitVRLittleEndian)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.1.1", generate_uid(), "DX"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Doe^Jane", "4711", "19700101"
    dataset.InstitutionName, dataset.PatientComments = "Doe Clinic", "Mrs Doe"
    dataset.add_new(0x00091001, "LO", "Doe^Jane")
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, int(pixels.dtype.kind == "i")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.dtype.itemsize, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.WindowCenter, dataset.WindowWidth, dataset.PixelSpacing = 2000, 3000, [0.2, 0.2]
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., Path]:
    """Writes an uncompressed 12-bit MONOCHROME1 image of a patient with a name; keywords are elements of it."""
    return _dicom
