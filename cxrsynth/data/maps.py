"""Attention maps kept in one file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cxrsynth.errors import UserError, first_line


class MapStore:
    """Attention maps by image and finding.

    Args:
        path: An `.npz` with `image_id` `[M]` str, `finding` `[M]` str and `map` `[M, h, w]` float16, of the squares.

    Raises:
        UserError: The file is not such a file.
    """

    def __init__(self, path: str | Path):
        try:
            with np.load(path, allow_pickle=False) as file:
                ids, findings, maps = (file[key] for key in ("image_id", "finding", "map"))
        except Exception as error:  # numpy, zipfile and zlib raise many kinds on damaged files
            raise UserError(
                f"maps {path} cannot be read ({first_line(error)}); it needs the arrays image_id, finding and map"
            ) from error
        if maps.ndim != 3 or ids.ndim != 1 or findings.ndim != 1 or not len(ids) == len(findings) == len(maps):
            raise UserError(
                f"maps {path}: ids {ids.shape}, findings {findings.shape} and maps {maps.shape}; one of each per row"
            )
        if maps.dtype.kind != "f" or not np.isfinite(maps).all() or maps.size == 0:
            raise UserError(f"maps {path}: maps are {maps.dtype} {maps.shape}; they must be finite floats, and some")
        self.maps = torch.from_numpy(maps.astype(np.float16))
        self.index = {(str(i), str(f)): row for row, (i, f) in enumerate(zip(ids, findings, strict=True))}

    def has(self, image_ids: Sequence[str], findings: Sequence[str]) -> np.ndarray:
        """Bool `[N, C]`: which image has a map of which finding."""
        return np.array([[(i, f) in self.index for f in findings] for i in image_ids], bool).reshape(len(image_ids), -1)

    def batch(self, image_ids: Sequence[str], findings: Sequence[str | None], size: int) -> Tensor:
        """Maps `[B, 1, size, size]` in [0, 1], float32; zero where the finding is None or there is no map."""
        rows = [-1 if f is None else self.index.get((i, f), -1) for i, f in zip(image_ids, findings, strict=True)]
        known = torch.tensor([row >= 0 for row in rows])
        maps = self.maps[torch.tensor(rows).clamp_min(0)].float() * known[:, None, None]
        return F.interpolate(maps[:, None], (size, size), mode="bilinear").clamp(0, 1)
