"""Numbers of a whole film: heart against chest, brightness of the body's parts, aortic knob, sharpness, noise."""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from cxrsynth.data.phantom.anatomy import Anatomy
from cxrsynth.data.phantom.layers import WORKING_SIZE, Layers, Measured
from cxrsynth.data.phantom.shapes import Array


def film_numbers(placement: Array, anatomy: Anatomy, layers: Layers, right: Measured, left: Measured) -> Measured:
    """Heart widths against the chest, brightness of the body's parts, sharpness, noise."""
    numbers = _heart_widths(anatomy, layers)
    axis = (np.arange(14) + 0.5) / 14 * 2 - 1
    grid = np.stack([*(g.ravel() for g in np.meshgrid(axis, axis)), np.ones(196)])
    x, y = placement @ grid
    at = [(y + 1) * WORKING_SIZE / 2 - 0.5, (x + 1) * WORKING_SIZE / 2 - 0.5]
    broad = gaussian_filter(layers.grey, 3.0)
    parts = map_coordinates(broad, at, order=1, mode="nearest").reshape(14, 14)
    sharp = map_coordinates(layers.texture, at, order=1, mode="nearest").reshape(14, 14)
    mirrored = 0.5 * (parts + parts[:, ::-1])
    sharp = 0.5 * (sharp + sharp[:, ::-1])
    numbers |= {f"part {i},{j}": float(mirrored[i, j]) for i in range(14) for j in range(7)}
    numbers |= {f"sharp {i},{j}": float(sharp[i, j]) for i in range(1, 13, 2) for j in range(1, 7)}
    fine = map_coordinates(layers.smooth, _near_knob(placement), order=1, mode="nearest")
    edges = map_coordinates(layers.fine, _near_knob(placement), order=1, mode="nearest")
    numbers |= {f"knob {k}": float(value) for k, value in enumerate(fine.reshape(6, 2, 5, 2).mean((1, 3)).ravel())}
    numbers |= {
        f"knob rim {k}": float(value) for k, value in enumerate(np.abs(edges).reshape(6, 2, 5, 2).mean((1, 3)).ravel())
    }
    numbers["noise"] = float(np.abs(layers.grey - gaussian_filter(layers.grey, 0.7)).mean())
    numbers["contrast"] = anatomy.tissue_grey - anatomy.lung_grey
    numbers["lung grey"] = anatomy.lung_grey
    numbers["ribs"] = right["ribs"] + left["ribs"]
    for name in ("height", "width", "area", "dome centre row", "dome lateral edge", "texture 2c", "texture 1l"):
        numbers[f"both {name}"] = right[name] + left[name]
    numbers["tall"] = numbers["both height"] / max(numbers["both width"], 0.05)
    numbers["scale x"], numbers["scale y"] = float(placement[0, 0]), float(placement[1, 1])
    return numbers


def _near_knob(placement: Array) -> list[Array]:
    """Points `[12 * 10]` of the film around the aortic knob, where the atlas says it is."""
    u, v = np.meshgrid(np.linspace(-0.02, 0.24, 10), np.linspace(-0.55, -0.1, 12))
    x, y = placement @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    return [(y + 1) * WORKING_SIZE / 2 - 0.5, (x + 1) * WORKING_SIZE / 2 - 0.5]


def _heart_widths(anatomy: Anatomy, layers: Layers) -> Measured:
    """Distance of the heart's borders from the midline at seven heights, as a share of the chest's width."""
    right, left = anatomy.lungs
    top, bottom = min(right.box[0], left.box[0]), max(right.box[1], left.box[1])
    chest = max(left.box[3] - right.box[3], 10.0)
    middle = 0.5 * (right.box[3] + left.box[3])
    smooth = gaussian_filter(layers.grey, 1.2)
    numbers, widths = {}, []
    for k, depth in enumerate(np.linspace(0.4, 0.94, 7)):
        row = int(np.clip(round(top + depth * (bottom - top)), 0, WORKING_SIZE - 1))
        line = smooth[row]
        reach = []
        for lung in (right, left):
            columns = np.arange(round(middle), round(lung.box[3]) + lung.sign, lung.sign)
            columns = columns[(columns >= 0) & (columns < WORKING_SIZE)]
            profile = line[columns]
            if not len(profile):
                reach.append(0.0)
                continue
            floor = float(np.percentile(profile, 20))
            high = profile > 0.5 * (floor + 0.95)
            first = int(np.argmin(high)) if not high.all() else len(high)
            reach.append(first / chest)
        numbers[f"heart right {k}"], numbers[f"heart left {k}"] = reach
        widths.append(sum(reach))
    numbers["heart width"] = float(np.sort(widths)[-2])
    numbers["heart over waist"] = float(np.sort(widths)[-2] - widths[0])
    return numbers
