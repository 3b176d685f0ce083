"""Images that do not look like the others of their archive."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

ENOUGH = 20  # images that a site's mean needs to be of use


def odd_images(ids: list[str], thumbnails: NDArray[np.uint8], sites: list[str]) -> dict[str, list[str]]:
    """What looks wrong with which image, told from thumbnails.

    An image is compared with the mean of its site (of all images, if a site has fewer than 20; not at all, if there are
    fewer than 20 in all). The limits were set on 1850 real images, of which none is called odd, and five bad ones.

    Args:
        ids: M image_ids.
        thumbnails: Uint8 `[M, S, S]`.
        sites: Their sites.

    Returns:
        image_id to reasons, of odd images only.
    """
    images = thumbnails.astype(np.float32) / 255
    reasons: dict[str, list[str]] = defaultdict(list)
    for image_id, black_or_white, flat in zip(ids, _saturated(images), _flat(images), strict=True):
        if flat > 0.97:
            reasons[image_id].append("blank")
        elif black_or_white > 0.58 or flat > 0.55:
            reasons[image_id].append("tiny field: most of the film is empty")
    vectors = _standardise(images)
    for members in _groups(sites):
        mean = vectors[members].mean(0)
        mean = mean / np.linalg.norm(mean).clip(1e-6)
        upright = np.tensordot(vectors[members], mean, 2)
        turned = np.tensordot(vectors[members], mean[::-1], 2)
        for row, as_is, upside_down in zip(members, upright, turned, strict=True):
            if upside_down > 0.3 and upside_down - as_is > 0.45:
                reasons[ids[row]].append("upside down")
            elif as_is < -0.05:
                reasons[ids[row]].append("inverted or badly exposed")
    return dict(reasons)


def _groups(sites: list[str]) -> list[NDArray[np.intp]]:
    """Rows to be compared with each other."""
    if len(sites) < ENOUGH:
        return []
    labels = np.array(sites, object)
    groups = [np.flatnonzero(labels == site) for site in sorted(set(sites))]
    return groups if all(len(group) >= ENOUGH for group in groups) else [np.arange(len(sites))]


def _standardise(images: NDArray[np.floating]) -> NDArray[np.floating]:
    centred = images - images.mean((1, 2), keepdims=True)
    return centred / np.sqrt((centred**2).sum((1, 2), keepdims=True)).clip(1e-6)


def _saturated(images: NDArray[np.floating]) -> NDArray[np.floating]:
    """Share of pixels that are black or white."""
    return ((images < 0.03) | (images > 0.97)).mean((1, 2))


def _flat(images: NDArray[np.floating]) -> NDArray[np.floating]:
    """Share of pixels that hardly differ from the next ones."""
    steps = np.abs(images[:, 1:, :-1] - images[:, :-1, :-1]) + np.abs(images[:, :-1, 1:] - images[:, :-1, :-1])
    return (steps < 0.012).mean((1, 2))
