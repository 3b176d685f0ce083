"""Images of a manifest as squares, decoded once."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cxrsynth.data.geometry import SQUARES, crop_square
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.maps import MapStore
from cxrsynth.data.masks import MaskStore
from cxrsynth.data.reading import READERS, read_image
from cxrsynth.data.sampling import HEALTHY, Draw
from cxrsynth.errors import UserError


class CXRDataset(Dataset[dict[str, Any]]):
    """The images of a manifest. Items are whole batches: ask with a list of draws.

    Args:
        manifest: The images.
        findings: C findings of the targets.
        size: Side of the squares, pixels.
        maps: Attention maps, or masks in their place, to give along.
        lungs: Give masks of the lungs along; they are 0 where the manifest has none.
        square: How images become squares (see `SQUARES`).
        cache: Decode all images now and keep them as float16. Unreadable ones are dropped from the dataset. Without it
            they are read when asked for, and an unreadable one is missing from its batch.

    Attributes:
        manifest: The images, without those that proved unreadable.
        targets: Float32 `[N, C]`.
        unreadable: image_id to what is wrong with it.
    """

    def __init__(
        self,
        manifest: Manifest,
        findings: Sequence[str],
        size: int,
        maps: MapStore | MaskStore | None = None,
        cache: bool = True,
        lungs: bool = False,
        square: str = "pad",
    ):
        self.manifest, self.findings, self.size, self.maps = manifest, list(findings), size, maps
        self.to_square = SQUARES[square]
        self.unreadable: dict[str, str] = {}
        self.cache: Tensor | None = None
        if cache:
            self._fill()
        self.targets = self.manifest.targets(findings)
        self.ids = self.manifest.table.image_id.tolist()
        self.lungs = MaskStore(self.manifest, size) if lungs else None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        return self.__getitems__([draw])

    def __getitems__(self, draws: list[Draw]) -> dict[str, Any]:
        """The batch of these draws, as docs/design.md describes it."""
        if self.cache is None:
            known = set(self.unreadable)
            squares = {draw: self._read(self.ids[draw[0]]) for draw in draws}
            for image_id in self.unreadable.keys() - known:
                warnings.warn(f"set aside as unreadable: {self.unreadable[image_id]}", stacklevel=2)
            draws = [draw for draw in draws if squares[draw] is not None]
            if not draws:
                raise UserError(f"none of a batch's images can be read: {next(iter(self.unreadable.values()))}")
            image = torch.stack([square for square in (squares[draw] for draw in draws) if square is not None])
        else:
            image = self.cache[[row for row, _ in draws]].float()
            if self.to_square is crop_square:  # 8-bit values, which half precision only came near
                image = (255 * image).round() / 255
        batch: dict[str, Any] = {
            "image": image,
            "target": self.targets[[row for row, _ in draws]],
            "image_id": [self.ids[row] for row, _ in draws],
        }
        rows = self.manifest.table.iloc[[row for row, _ in draws]]
        batch |= {column: rows[column].tolist() for column in ("view", "sex", "text")}
        batch["age"] = torch.tensor(rows["age"].to_numpy(), dtype=torch.float32)
        if self.lungs is not None:
            batch["lungs"] = self.lungs.batch(batch["image_id"], ["lungs"] * len(image), self.size)
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
            for image_id, square in zip(ids, readers.map(self._read, ids), strict=True):
                if square is not None:
                    cache[len(kept)] = square
                    kept.append(image_id)
        self.cache = cache[: len(kept)]
        if self.unreadable:
            self.manifest = self.manifest.select(ids=set(kept))

    def _read(self, image_id: str) -> Tensor | None:
        try:
            return self.to_square(read_image(self.manifest.path(image_id)), self.size)
        except UserError as error:
            self.unreadable[image_id] = str(error)
            return None


def has_findings(targets: Tensor) -> np.ndarray:
    """Bool `[N, C]`: which image certainly has which finding."""
    return (targets == 1).numpy()
