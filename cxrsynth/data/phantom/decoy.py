"""The cheat that an oracle must see through: a smooth blob where the lesion should be."""

import numpy as np

from cxrsynth.data.phantom.shapes import Array


def blob_decoy(healthy: Array, diseased: Array, mask: Array) -> Array:
    """Replace a lesion by a Gaussian blob of the same place, extent, and summed brightness, slightly blurred.

    Args:
        healthy: `[H, W]`, the film without the lesion.
        diseased: `[H, W]`, the same film with it.
        mask: `[H, W]` bool, the lesion.

    Returns:
        `[H, W]`, the healthy film with the blob.
    """
    rows, columns = np.nonzero(mask)
    points = np.stack([rows, columns]).astype(float)
    centre = points.mean(1)
    spread = np.cov(points) if points.shape[1] > 3 else np.eye(2)
    spread = spread + (0.015 * len(healthy)) ** 2 * np.eye(2)
    total = float((diseased - healthy)[mask].sum())
    y, x = np.indices(healthy.shape)
    away = np.stack([y - centre[0], x - centre[1]])
    distance = np.einsum("ihw,ij,jhw->hw", away, np.linalg.inv(spread), away)
    height = np.clip(total / (2 * np.pi * np.sqrt(np.linalg.det(spread))), -0.5, 0.5)
    return np.clip(healthy + height * np.exp(-0.5 * distance), 0, 1).astype(np.float32)
