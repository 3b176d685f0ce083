"""Registrations kept on disk, so that a resumed or a repainted run does not make them again."""

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cxrsynth.files import write_bytes
from cxrsynth.registration.transport import Alignment

STEPS = 64  # kept displacements are multiples of 1/64 pixel of the working size
VERSION = 3  # of the registration's settings; another number, other keys


def settled(alignment: Alignment) -> Alignment:
    """The alignment as a file keeps it. Used always, so that a file changes no bit of what is painted."""
    field = (alignment.field * STEPS).round().clamp(-(2**15) + 1, 2**15 - 1) / STEPS
    return Alignment(field, alignment.ncc)


class FieldStore:
    """Alignments of pairs of images, one file a pair; without a folder nothing is kept.

    Args:
        folder: Where the files are, made if need be.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def get(self, key: str, shape: tuple[int, int]) -> tuple[Tensor, float] | None:
        """Field `[2, h, w]` and correlation of a pair; None when it is not kept, or its file is damaged."""
        if self.folder is None:
            return None
        try:
            with np.load(self._path(key), allow_pickle=False) as file:
                field, ncc = file["field"], float(file["ncc"])
        except Exception:  # numpy and zipfile raise many kinds; what cannot be read is made again
            return None
        if field.dtype != np.int16 or field.shape != (2, *shape) or not -1 <= ncc <= 1:
            return None
        return torch.from_numpy(field.astype(np.float32) / STEPS), ncc

    def put(self, key: str, field: Tensor, ncc: float) -> None:
        """Keep a settled field `[2, h, w]` and its correlation."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        values = (field.cpu() * STEPS).round().numpy().astype(np.int16)
        np.savez_compressed(buffer, field=values, ncc=np.float32(ncc))
        write_bytes(self._path(key), buffer.getvalue())

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.npz"


def pair_key(source_sha256: str, exemplar_sha256: str, size: int, pull: str) -> str:
    """Name of a pair's file: it depends on both images' bytes and on all that the registration depends on."""
    text = f"{VERSION}:{source_sha256}:{exemplar_sha256}:{size}:{pull}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
