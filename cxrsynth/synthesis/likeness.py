"""What is measured of images to match them: body size, encoder features, and how they look before registration."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.anatomy import segment
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import READERS
from cxrsynth.data.squares import readable_square
from cxrsynth.encoder.vit import ViT
from cxrsynth.errors import UserError
from cxrsynth.registration.align import local_contrast

SIDE, THUMBNAIL = 128, 16  # pixels a side of what the lungs are looked for in, and of the correlated thumbnails
DIMENSIONS = 8  # principal components of encoder features that are matched on
BATCH = 32


@dataclass(frozen=True)
class Likeness:
    """Measurements of M images.

    Attributes:
        ids: Their image_id.
        body: float64 `[M, 2]`, logarithms of height and width of the lungs, or of the film where none are found.
        thumbnails: float16 `[M, T]`, local contrast at a few pixels a side, of mean 0 and length 1.
        embedding: float64 `[M, D]`, encoder features, two random images about 1 apart; None without encoder.
    """

    ids: list[str]
    body: NDArray[np.float64]
    thumbnails: NDArray[np.float16]
    embedding: NDArray[np.float64] | None

    def rows(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Where these images stand.

        Raises:
            UserError: One was not measured.
        """
        ids = list(ids)
        place = {image_id: row for row, image_id in enumerate(self.ids)}
        missing = [image_id for image_id in ids if image_id not in place]
        if missing:
            raise UserError(f"image {missing[0]!r} was not measured ({len(missing)} such); measure the training images")
        return np.array([place[image_id] for image_id in ids], np.int64)


@torch.no_grad()
def measure_likeness(manifest: Manifest, encoder: ViT | None = None) -> Likeness:
    """Read and measure every image of a manifest, in the order of their ids; one that cannot be read measures as empty.

    Args:
        manifest: The images, for a plan the training images.
        encoder: Whose space similarity is measured in.
    """
    ids = sorted(manifest.table["image_id"])
    size = SIDE if encoder is None else max(SIDE, encoder.config["image_size"])
    body, thumbnails = [np.zeros((0, 2))], [np.zeros((0, THUMBNAIL**2), np.float16)]
    features = []
    for squares in _batches(manifest, ids, size):
        if encoder is not None:
            features.append(encoder(squares, 1)[0][1].float().numpy())
        small = F.interpolate(squares, (SIDE, SIDE), mode="area")
        body.append(_body(small))
        tiny = F.interpolate(local_contrast(small), (THUMBNAIL, THUMBNAIL), mode="area").flatten(1)
        tiny = tiny - tiny.mean(1, keepdim=True)
        thumbnails.append((tiny / tiny.norm(dim=1, keepdim=True).clamp_min(1e-6)).half().numpy())
    embedding = principal(np.concatenate(features)) if features else None
    return Likeness(ids, np.concatenate(body), np.concatenate(thumbnails), embedding)


def principal(features: NDArray[np.floating], dimensions: int = DIMENSIONS) -> NDArray[np.float64]:
    """Principal components of features `[M, D]`, scaled so that two random rows are 1 apart, rounded to 1/1000.

    Rounded, because the last bits of a decomposition depend on the machine and a plan should not.
    """
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    covariance = centred.T @ centred / max(len(centred), 1)
    _, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, ::-1][:, :dimensions]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])  # signs are free otherwise
    scores = centred @ axes
    spread = np.sqrt(2 * (scores**2).sum(1).mean()) if len(scores) else 0.0
    return np.round(scores / max(spread, 1e-12), 3)


def _batches(manifest: Manifest, ids: list[str], size: int) -> Iterator[Tensor]:
    def read(image_id: str) -> Tensor:
        square = readable_square(manifest, image_id, size)
        return torch.zeros(1, size, size) if square is None else square  # the engine refuses it by name

    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(ids), BATCH):
            yield torch.stack(list(readers.map(read, ids[start : start + BATCH])))


def _body(squares: Tensor) -> NDArray[np.float64]:
    """Logarithms of height and width of the lungs' extent; of the film's where the segmenter finds no lungs."""
    lungs = segment(squares)[:, 0]
    found = lungs.flatten(1).any(1)
    shown = torch.where(found[:, None, None], lungs, squares[:, 0] > 0.03)
    height, width = shown.any(2).sum(1), shown.any(1).sum(1)
    return np.log(torch.stack([height, width], 1).clamp_min(1).double().numpy() / SIDE)
