"""Numbers of a lung's lower half where the atlas lies: is the border of what is opaque a dome or a meniscus?"""

import numpy as np
from scipy.ndimage import map_coordinates

from cxrsynth.data.phantom.estimate import ATLAS_SIZE, atlas
from cxrsynth.data.phantom.layers import WORKING_SIZE, Layers, Measured
from cxrsynth.data.phantom.shapes import Array


def lower_lungs(placement: Array, layers: Layers) -> tuple[Array, Array]:
    """Lower halves of both lungs `[16, 12]` where the atlas lies, whatever the pixels there show: right, left."""
    _, right, left, _ = atlas()
    frames = []
    for part, sign in ((right, -1), (left, 1)):
        columns = np.flatnonzero((part > 0.3).any(0)) / ATLAS_SIZE * 2 - 1
        rows = np.flatnonzero((part > 0.3).any(1)) / ATLAS_SIZE * 2 - 1
        medial, wall = (columns[-1], columns[0]) if sign < 0 else (columns[0], columns[-1])
        tall = rows[-1] - rows[0]
        u, v = np.meshgrid(
            np.linspace(medial, wall, 12), np.linspace(rows[0] + 0.45 * tall, rows[-1] + 0.06 * tall, 16)
        )
        x, y = placement @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
        at = [(y + 1) * WORKING_SIZE / 2 - 0.5, (x + 1) * WORKING_SIZE / 2 - 0.5]
        frames.append(map_coordinates(layers.smooth, at, order=1, mode="nearest").reshape(16, 12))
    return frames[0], frames[1]


def base_numbers(own: Array, other: Array) -> Measured:
    """Upper border of what is opaque at the base, column by column: a dome bulges up, a meniscus climbs the wall."""
    numbers = {}
    levels = []
    for k in range(6):
        profile = own[:, 2 * k : 2 * k + 2].mean(1)
        dense = np.cumsum(profile[::-1] > 0.62) == np.arange(1, 17)
        levels.append(float(dense.sum()) / 16)
        partner = other[:, 2 * k : 2 * k + 2].mean(1)
        numbers[f"base level {k}"] = levels[-1]
        numbers[f"base grey {k}"] = float(profile[8:14].mean())
        numbers[f"base more {k}"] = float((profile - partner)[6:14].mean())
        numbers[f"base slope {k}"] = float(np.diff(profile).max())
    numbers["base bulge"] = max(levels[2:4]) - levels[5]
    numbers["base climb"] = levels[5] - levels[3]
    numbers["base climb positive"] = max(levels[5] - levels[3], 0.0)
    return numbers
