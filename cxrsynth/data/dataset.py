"""Images of a manifest as squares, decoded once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cxrsynth.data.geometry import to_square
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.maps import MapStore
from cxrsynth.data.reading import READERS, read_image
from cxrsynth.data.sampling import HEALTHY, Draw
from cxrsynth.errors import UserError


class CXRDataset(Dataset[dict[str, Any]]):
    """The images of a manifest. Items are whole batches: ask with a list of draws.

    Args:
        manifest: The images.
        findings: C findings of the targets.
        size: Side of the squares, pixels.
        maps: Attention maps to give along.
        cache: Decode all images now and keep them as float16. Unreadable ones are dropped from the dataset. Without it
            they are read when asked for, and an unreadable one is missing from its batch.

    Attributes:
        manifest: The images, without those that proved unreadable.
        targets: Float32 `[N, C]`.
        unreadable: image_id to what is wrong with it.
    """

    def __init__(
        self, manifest: Manifest, findings: Sequence[str], size: int, maps: MapStore | None = None, cache: bool = True
    ):
        self.manifest, self.findings, self.size, self.maps = manifest, list(findings), size, maps
        self.unreadable: dict[str, str] = {}
        self.cache: Tensor | None = None
        if cache:
            self._fill()
        self.targets = self.manifest.targets(findings)
        self.ids = self.manifest.table.image_id.tolist()
        self.paths = [self.manifest.path(image_id) for image_id in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return self.__getitems__([draw])

    def __getitems__(self, draws: list[Draw]) -> dict[str, Any]:
        """The batch of these draws, as docs/design.md describes it."""
        squares = None if self.cache is not None else [self._read(self.ids[row], self.paths[row]) for row, _ in draws]
        if squares is not None:
            draws = [draw for draw, square in zip(draws, squares, strict=True) if square is not None]
            if not draws:
                raise UserError(
                    f"none of a batch's images can be read, among them {next(iter(self.unreadable.values()))}"
                )
        rows = torch.tensor([row for row, _ in draws])
        found = [square for square in squares or () if square is not None]
        batch: dict[str, Any] = {
            "image": torch.stack(found) if self.cache is None else self.cache[rows].float(),
            "target": self.targets[rows],
            "image_id": [self.ids[row] for row, _ in draws],
        }
        if self.maps is not None:
            names = [None if finding == HEALTHY else self.findings[finding] for _, finding in draws]
            batch["map"] = self.maps.batch(batch["image_id"], names, self.size)
            batch["finding"] = torch.tensor([finding for _, finding in draws])
        return batch

    def _fill(self) -> None:
        ids = self.manifest.table.image_id.tolist()
        cache = torch.empty(len(ids), 1, self.size, self.size, dtype=torch.float16)
        kept: list[str] = []
        with ThreadPoolExecutor(READERS) as readers:
            squares = readers.map(lambda image_id: self._read(image_id, self.manifest.path(image_id)), ids)
            for image_id, square in zip(ids, squares, strict=True):
                if square is not None:
                    cache[len(kept)] = square
                    kept.append(image_id)
        self.cache = cache[: len(kept)]
        if self.unreadable:
            self.manifest = self.manifest.select(ids=set(kept))

    def _read(self, image_id: str, path: Path) -> Tensor | None:
        try:
            return to_square(read_image(path), self.size)
        except UserError as error:
            self.unreadable[image_id] = str(error)
            return None


def has_findings(targets: Tensor) -> np.ndarray:
    """Bool `[N, C]`: which image certainly has which finding."""
    return (targets == 1).numpy()
