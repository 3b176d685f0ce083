"""Masks and boxes of a manifest as squares."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.data.geometry import to_square
from cxrsynth.data.labels import find
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_image
from cxrsynth.errors import UserError
from cxrsynth.files import inside


class MaskStore:
    """What the manifest marks, by image and structure, read when first asked for and kept.

    Where findings are marked it stands in for attention maps (it has the methods of `MapStore`). An image with both a
    mask and boxes of a structure gets the mask.

    Args:
        manifest: Its `masks` and `boxes` are used.
        size: Side of the squares in which masks are kept, pixels.
    """

    def __init__(self, manifest: Manifest, size: int):
        self.manifest, self.size = manifest, size
        self.paths: dict[tuple[str, str], list[str]] = {}
        for image_id, structure, root, path in _rows(manifest.masks, "image_id", "structure", "root", "path"):
            name = find(structure, manifest.findings) or structure
            self.paths.setdefault((image_id, name), []).append(str(inside(root, path)))
        self.boxes: dict[tuple[str, str], list[list[float]]] = {}
        for image_id, label, *box in _rows(manifest.boxes, "image_id", "label", "x_min", "y_min", "x_max", "y_max"):
            self.boxes.setdefault((image_id, label), []).append(box)
        self.kept: dict[tuple[str, str], Tensor] = {}

    def has(self, image_ids: Sequence[str], findings: Sequence[str]) -> np.ndarray:
        """Bool `[N, C]`: in which image which structure is marked."""
        known = self.paths.keys() | self.boxes.keys()
        return np.array([[(i, f) in known for f in findings] for i in image_ids], bool).reshape(len(image_ids), -1)

    def batch(self, image_ids: Sequence[str], findings: Sequence[str | None], size: int) -> Tensor:
        """Masks `[B, 1, size, size]` in {0, 1}, float32; 0 where the finding is None or not marked.

        Raises:
            UserError: A file cannot be read.
        """
        masks = torch.stack([self._square(i, f) for i, f in zip(image_ids, findings, strict=True)]).float()
        return masks if size == self.size else (F.interpolate(masks, (size, size), mode="area") > 0).float()

    def _square(self, image_id: str, finding: str | None) -> Tensor:
        key = (image_id, finding or "")
        if key not in self.paths and key not in self.boxes:
            return torch.zeros(1, self.size, self.size, dtype=torch.bool)
        if key not in self.kept:
            if key in self.paths:
                whole = torch.stack([read_image(path) for path in self.paths[key]]).amax(0)
            else:
                whole = torch.zeros_like(read_image(self.manifest.path(image_id)))
                for left, top, right, bottom in map(_checked, self.boxes[key]):
                    whole[:, round(top) : round(bottom), round(left) : round(right)] = 1
            self.kept[key] = to_square(whole, self.size) > 0.5
        return self.kept[key]


def _checked(box: list[float]) -> list[float]:
    """A box without its part above or left of the image.

    Raises:
        UserError: It is not finite, or its ends are before its beginnings.
    """
    if not np.isfinite(box).all() or box[0] > box[2] or box[1] > box[3]:
        raise UserError(f"boxes.csv has the box {box}; give x_min, y_min, x_max, y_max in pixels, in this order")
    return [max(value, 0.0) for value in box]


def _rows(frame: pd.DataFrame, *columns: str) -> list[tuple]:
    return list(zip(*(frame[column].tolist() for column in columns), strict=True))
