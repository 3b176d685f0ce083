"""Anatomy from pixels alone: an atlas of soft tissue is laid over the film, then each lung's border is refined."""

from dataclasses import replace
from functools import cache

import numpy as np
from scipy.ndimage import binary_dilation, binary_fill_holes, gaussian_filter, label, map_coordinates, zoom

from cxrsynth.data.phantom.anatomy import Anatomy
from cxrsynth.data.phantom.film import Film
from cxrsynth.data.phantom.patient import Exposure, Patient
from cxrsynth.data.phantom.shapes import Array, Frame
from cxrsynth.data.phantom.thorax import render_thorax

ATLAS_SIZE = 48


def estimate_anatomy(image: Array, lungs: Array | None = None, placement: Array | None = None) -> Anatomy:
    """Find lungs and heart on a film.

    Args:
        image: `[H, W]` float32 in [0, 1], air dark, H = W.
        lungs: Both lungs `[H, W]` bool or 0/1, where a mask is known; the heart still comes from the atlas.
        placement: Of the atlas, where `align` has found it already.

    Returns:
        Lung fields (healthy extent, as far as an opacity lets it be seen), heart, and the greys of air and tissue.
    """
    size = image.shape[0]
    _, right, left, heart = atlas()
    placement = align(image) if placement is None else placement
    fields = np.stack([place(part, placement, size) for part in (right, left)])
    heart_field = place(heart, placement, size)
    smooth = gaussian_filter(image, 0.008 * size)
    air = float(np.percentile(smooth[fields.sum(0) > 0.8], 30)) if (fields.sum(0) > 0.8).any() else 0.3
    solid = smooth[(heart_field > 0.8)]
    tissue = max(float(np.percentile(solid, 50)) if solid.size else 0.9, air + 0.08)
    outside = smooth < air - 0.6 * (tissue - air)
    evidence = np.where(outside, -0.6, (0.5 * (air + tissue) - smooth) / (tissue - air)).clip(-0.6, 0.6)
    refined = np.clip(0.5 + 4 * (evidence + 1.3 * (gaussian_filter(fields, (0, 0.02 * size, 0.02 * size)) - 0.5)), 0, 1)
    refined[0] *= fields[0] >= fields[1]
    refined[1] *= fields[1] > fields[0]
    refined = np.stack([_largest(part) for part in refined])
    if lungs is not None:
        middle = _divide(np.asarray(lungs) > 0.5)
        refined = np.stack([middle[0], middle[1]]).astype(np.float32)
    heart_field = np.clip(heart_field - refined.sum(0), 0, 1)
    return Anatomy.of(refined.astype(np.float32), heart_field, smooth)


def _largest(part: Array) -> Array:
    """The largest connected piece of a field, its gaps (vessels, small opacities) closed."""
    pieces, count = label(part > 0.5)
    if count < 1:
        return part
    kept = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return np.where(binary_dilation(kept), np.maximum(part, binary_fill_holes(kept)), 0)


def _divide(lungs: Array) -> tuple[Array, Array]:
    """Both lungs to right (image left) and left, at the emptiest column of the middle third."""
    columns = lungs.sum(0)
    third = len(columns) // 3
    cut = third + int(np.argmin(gaussian_filter(columns[third : 2 * third].astype(float), 0.02 * len(columns))))
    x = np.arange(lungs.shape[1])
    return lungs & (x < cut), lungs & (x >= cut)


@cache
def atlas() -> tuple[Array, Array, Array, Array]:
    """Mean film, right lung, left lung and heart `[48, 48]` of a dozen healthy patients without bones and vessels."""
    stack = []
    for seed in range(12):
        patient, exposure = Patient.draw(seed), Exposure.draw(seed)
        exposure = replace(exposure, scale=0.72, centre=(0.5, 0.5), tilt=0.0, turn=0.0, gain=2.3, level=1.25)
        frame = Frame.of(exposure, ATLAS_SIZE)
        thorax = render_thorax(patient, exposure, frame, np.random.default_rng(seed))
        stack.append(np.stack([Film.of(exposure).grey(thorax.attenuation), *thorax.lungs, thorax.heart]))
    mean = np.mean(stack, 0).astype(np.float32)
    return mean[0], mean[1], mean[2], mean[3]


def place(part: Array, placement: Array, size: int) -> Array:
    """Carry a piece of the atlas onto the film `[size, size]` (`placement` of `align`)."""
    inverse = np.linalg.inv(np.vstack([placement, [0, 0, 1]]))[:2]
    grid = _points(size)
    x, y = inverse @ grid
    rows, columns = (y + 1) * ATLAS_SIZE / 2 - 0.5, (x + 1) * ATLAS_SIZE / 2 - 0.5
    return map_coordinates(part, [rows, columns], order=1, mode="constant").reshape(size, size)


def align(image: Array) -> Array:
    """Affine placement `[2, 3]` of the atlas on a film; coordinates (x, y) in [-1, 1] of atlas and film.

    A coarse search over shift and scale by correlation, then Gauss-Newton steps (Baker and Matthews, "Lucas-Kanade
    20 years on", 2004, inverse compositional) on grey values with free gain and offset.
    """
    film = _small(image, ATLAS_SIZE)
    start = _coarse(film)
    return _refine(film, start)


def _small(image: Array, size: int) -> Array:
    """The film at `size` pixels, air around the body filled in, brightness and contrast evened out locally."""
    smooth = gaussian_filter(image, 0.4 * image.shape[0] / size)
    return _even(zoom(smooth, size / image.shape[0], order=1, grid_mode=True, mode="nearest"))


def _even(film: Array) -> Array:
    low, high = np.percentile(film, (3, 97))
    film = np.clip((film - low) / max(high - low, 1e-3), 0, 1)
    parts, _ = label(film < min(0.5, 0.6 * float(np.median(film))))
    outside = np.unique(np.concatenate([parts[0], parts[:, 0], parts[:, -1], parts[-1]]))
    air = binary_dilation(np.isin(parts, outside[outside > 0]), iterations=1)
    film = np.where(air, np.median(film[~air]) if (~air).any() else 0.5, film)
    mean = gaussian_filter(film, 8)
    return (film - mean) / np.sqrt(gaussian_filter((film - mean) ** 2, 8) + 0.003)


@cache
def _model() -> Array:
    """The atlas film, evened out as films are."""
    return _even(atlas()[0])


def _points(size: int) -> Array:
    """Homogeneous pixel centres `[3, size * size]` in [-1, 1]."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    return np.stack([x.ravel(), y.ravel(), np.ones(size * size)])


@cache
def _weight() -> Array:
    """What of the atlas is compared: the chest, not the corners."""
    _, right, left, heart = atlas()
    return np.clip(gaussian_filter(right + left + heart, 2.5) * 1.6, 0, 1).ravel()


@cache
def _candidates() -> tuple[Array, Array]:
    """Placements `[K, 4]` (scale x, scale y, shift x, shift y) and the film pixels `[K, 24 * 24]` they compare."""
    grid = [
        (sx, sy, tx, ty)
        for sx in (0.7, 0.82, 0.95, 1.1)
        for sy in (0.6, 0.72, 0.86, 1.0, 1.17)
        for tx in (-0.14, -0.05, 0.05, 0.14)
        for ty in (-0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
    ]
    placements = np.array(grid, dtype=np.float32)
    points = _points(24)[:2]
    x = placements[:, 0:1] * points[0] + placements[:, 2:3]
    y = placements[:, 1:2] * points[1] + placements[:, 3:4]
    column, row = (np.clip(((p + 1) * 12).astype(int), 0, 23) for p in (x, y))
    return placements, row * 24 + column


def _coarse(film: Array) -> Array:
    placements, index = _candidates()
    half = film.reshape(24, 2, 24, 2).mean((1, 3)).ravel()
    model = _model().reshape(24, 2, 24, 2).mean((1, 3)).ravel()
    weight = _weight().reshape(24, 2, 24, 2).mean((1, 3)).ravel()
    weight = weight / weight.sum()
    model = model - (weight * model).sum()
    values = half[index]
    values = values - (values * weight).sum(1, keepdims=True)
    score = (values * (weight * model)).sum(1) / np.sqrt((values**2 * weight).sum(1) + 1e-6)
    sx, sy, tx, ty = placements[int(np.argmax(score))]
    return np.array([[sx, 0, tx], [0, sy, ty]], dtype=np.float64)


@cache
def _steepest() -> tuple[Array, Array]:
    """Steepest-descent images of the atlas with gain and offset `[N, 8]`, and their weighted pseudo-inverse."""
    model = gaussian_filter(_model(), 1.0)
    gy, gx = (g.ravel() * ATLAS_SIZE / 2 for g in np.gradient(model))
    x, y, one = _points(ATLAS_SIZE)
    basis = np.stack([gx * x, gx * y, gx, gy * x, gy * y, gy, model.ravel(), one], 1)
    weighted = basis * _weight()[:, None]
    ridge = np.diag([20.0, 160.0, 5.0, 160.0, 20.0, 5.0, 1e-3, 1e-3])
    return basis, np.linalg.solve(weighted.T @ basis + ridge, weighted.T)


def _refine(film: Array, placement: Array, steps: int = 14) -> Array:
    _, solve = _steepest()
    smooth = gaussian_filter(film, 1.0)
    points = _points(ATLAS_SIZE)
    for _ in range(steps):
        x, y = placement @ points
        at = [(y + 1) * ATLAS_SIZE / 2 - 0.5, (x + 1) * ATLAS_SIZE / 2 - 0.5]
        seen = map_coordinates(smooth, at, order=1, mode="nearest")
        p = solve @ seen
        gain = max(p[6], 0.2)
        step = np.eye(3)
        step[:2] += np.clip(p[:6].reshape(2, 3) / gain, -0.1, 0.1)
        placement = (np.vstack([placement, [0, 0, 1]]) @ np.linalg.inv(step))[:2]
    return placement
