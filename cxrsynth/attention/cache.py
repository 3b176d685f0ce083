"""A frozen encoder's features, computed once an image and kept on disk."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cxrsynth.encoder.vit import Features, ViT
from cxrsynth.files import write_atomic


class FeatureCache:
    """One memory-mapped float16 file an image, in a folder named after all that features depend on.

    These are the encoder's weights, sizes and contrast, and the archive with the way its images are made square.

    Memory does not grow with the archive, and a run that is cut off finds what it had computed.

    Args:
        folder: Where the folders of all encoders are.
        encoder: Frozen and in eval mode.
        blocks: How many of its last blocks are kept.
        image_size: Side of the square images in pixels.
        source: Where the images come from and what is done to them first, as far as it is known.
    """

    def __init__(self, folder: str | Path, encoder: ViT, blocks: int, image_size: int, source: Sequence[str] = ()):
        self.encoder, self.blocks, self.image_size = encoder, blocks, image_size
        settings = [encoder.config, blocks, image_size, *source]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, value in sorted(encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        self.folder = Path(folder) / digest.hexdigest()[:16]

    @property
    def bytes_per_image(self) -> int:
        """Size of an image's file: 8.4 MB for ViT-L/16 at 512 pixels and 4 blocks."""
        rows, columns = self.encoder.grid(self.image_size, self.image_size)
        return 2 * self.blocks * (rows * columns + 1) * self.encoder.dim

    @torch.no_grad()
    def features(self, image: Tensor, image_ids: Sequence[str]) -> Features:
        """Features of images `[B, 1, S, S]`, read where they are on disk, else computed and written.

        The images must be the same whenever their id is asked for: not augmented.
        """
        paths = [self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npy" for name in image_ids]
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        if missing:
            fresh = self.encoder(image[missing], self.blocks)
            packed = torch.stack([torch.cat([cls.unsqueeze(1), patches], dim=1) for patches, cls in fresh], dim=1)
            for index, one in zip(missing, packed.cpu().numpy().astype(np.float16), strict=True):
                write_atomic(paths[index], lambda file, one=one: np.save(file, one))  # type: ignore[misc]
        rows = [torch.from_numpy(np.array(np.load(path, mmap_mode="r"))) for path in paths]
        stacked = torch.stack(rows).to(image.device, torch.float32)
        return [(block[:, 1:], block[:, 0]) for block in stacked.unbind(1)]
