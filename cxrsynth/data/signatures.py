"""One pass over an archive's files: what duplicates and odd images are told by."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cxrsynth.data.geometry import to_square
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import READERS, read_stored
from cxrsynth.errors import UserError

SIDE = 64


@dataclass(frozen=True)
class Signatures:
    """What is kept of M readable images.

    Attributes:
        ids: The image_ids.
        digests: SHA-256 of the stored values and their shape: equal for equal pixels in any file format.
        thumbnails: Uint8 `[M, 64, 64]`, squares as networks see them.
        unreadable: image_id to what is wrong with it, of the others.
    """

    ids: list[str]
    digests: list[str]
    thumbnails: NDArray[np.uint8]
    unreadable: dict[str, str]


def read_signatures(manifest: Manifest) -> Signatures:
    """Read every image of a manifest once."""

    def read(image_id: str) -> tuple[str, NDArray[np.uint8]] | str:
        try:
            image = read_stored(manifest.path(image_id))
        except UserError as error:
            return str(error)
        digest = hashlib.sha256(f"{image.stored.shape}".encode() + image.stored.astype("<i4").tobytes())
        square = to_square(torch.from_numpy(image.display()), SIDE)
        return digest.hexdigest(), (square.numpy() * 255).round().astype(np.uint8)

    ids = manifest.table.image_id.tolist()
    with ThreadPoolExecutor(READERS) as readers:
        results = dict(zip(ids, readers.map(read, ids), strict=True))
    good = {image_id: result for image_id, result in results.items() if isinstance(result, tuple)}
    thumbnails = np.array([thumbnail for _, thumbnail in good.values()], np.uint8).reshape(-1, SIDE, SIDE)
    unreadable = {image_id: result for image_id, result in results.items() if isinstance(result, str)}
    return Signatures(list(good), [digest for digest, _ in good.values()], thumbnails, unreadable)
