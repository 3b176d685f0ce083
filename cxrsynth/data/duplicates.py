"""Images that are the same, or nearly."""

from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from cxrsynth.data.signatures import Signatures

# Correlation of fine detail. On 1850 distinct chest X-rays no pair is above 0.86; copies with noise, another contrast
# or gamma, or a quarter of the size are above 0.95. Copies that were shifted or cropped are not found.
THRESHOLD = 0.93
NEIGHBOURHOOD = 9
TABLES = 32
CHUNK = 4096


def exact_duplicates(signatures: Signatures) -> list[list[str]]:
    """Groups of images with equal pixels, each sorted."""
    groups = defaultdict(list)
    for image_id, digest in zip(signatures.ids, signatures.digests, strict=True):
        groups[digest].append(image_id)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def near_duplicates(signatures: Signatures, threshold: float = THRESHOLD) -> list[tuple[str, str, float]]:
    """Pairs of images whose fine detail agrees, exact duplicates among them.

    Candidates share a bucket of one of several random-hyperplane hashes (Charikar 2002), with buckets so small that the
    time grows nearly linearly with the archive; each candidate pair is then measured.

    Args:
        signatures: The images.
        threshold: Smallest correlation of the thumbnails' fine detail.

    Returns:
        Triples of two image_ids and their correlation, sorted.
    """
    detail = _detail(signatures.thumbnails)
    usable = np.flatnonzero(detail.any(1))
    if len(usable) < 2:
        return []
    bits = int(np.ceil(np.log2(len(usable)))) + 2
    codes = _hash(detail[usable], bits)
    pairs: dict[tuple[int, int], float] = {}
    for table in codes.T:
        order = np.argsort(table, kind="stable")
        starts = np.flatnonzero(np.diff(table[order], prepend=-1))
        for bucket in np.split(usable[order], starts[1:]):
            if len(bucket) > 1:
                _measure(detail, np.sort(bucket), threshold, pairs)
    ids = signatures.ids
    return sorted((min(ids[i], ids[j]), max(ids[i], ids[j]), value) for (i, j), value in pairs.items())


def near_duplicate_clusters(signatures: Signatures) -> dict[str, str]:
    """image_id to the cluster of near-identical images it belongs to, named after the cluster's first image."""
    parent = {image_id: image_id for image_id in [*signatures.ids, *signatures.unreadable]}

    def top(image_id: str) -> str:
        while parent[image_id] != image_id:
            parent[image_id] = image_id = parent[parent[image_id]]
        return image_id

    pairs = [(a, b) for a, b, _ in near_duplicates(signatures)]
    pairs += [(group[0], other) for group in exact_duplicates(signatures) for other in group[1:]]
    for first, second in pairs:
        low, high = sorted((top(first), top(second)))
        parent[high] = low
    return {image_id: f"cluster_{top(image_id)}" for image_id in parent}


def _detail(thumbnails: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Unit vectors `[M, 4096]` of what is finer than a neighbourhood; zero for a flat image."""
    rows = []
    for start in range(0, len(thumbnails), CHUNK):
        image = torch.from_numpy(thumbnails[start : start + CHUNK])[:, None].float() / 255
        mean = F.avg_pool2d(image, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2, count_include_pad=False)
        fine = (image - mean).flatten(1)
        fine = fine - fine.mean(1, keepdim=True)
        norm = fine.norm(dim=1, keepdim=True)
        rows.append(torch.where(norm > 1e-3, fine / norm.clamp_min(1e-9), 0).half().numpy())
    return np.concatenate(rows) if rows else np.zeros((0, 1), np.float16)


def _hash(detail: NDArray[np.float16], bits: int) -> NDArray[np.int64]:
    """`[M, TABLES]` codes of `bits` bits: on which side of random planes a vector lies."""
    planes = np.random.default_rng(0).standard_normal((detail.shape[1], TABLES * bits), np.float32)
    weights = 2 ** np.arange(bits, dtype=np.int64)
    codes = []
    for start in range(0, len(detail), CHUNK):
        sides = detail[start : start + CHUNK].astype(np.float32) @ planes > 0
        codes.append(sides.reshape(-1, TABLES, bits) @ weights)
    return np.concatenate(codes)


def _measure(detail: NDArray[np.float16], bucket: NDArray[np.intp], threshold: float, pairs: dict) -> None:
    vectors = detail[bucket].astype(np.float32)
    correlation = vectors @ vectors.T
    for a, b in np.argwhere(np.triu(correlation >= threshold, 1)):
        pairs[int(bucket[a]), int(bucket[b])] = float(correlation[a, b])
