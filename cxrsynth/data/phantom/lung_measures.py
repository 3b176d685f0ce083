"""Numbers of one lung: brightness and texture by place, pleural line, diaphragm, plates, the most opaque patch."""

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, label

from cxrsynth.data.phantom.anatomy import Lung
from cxrsynth.data.phantom.layers import DEPTHS, LATERALS, WORKING_SIZE, Measured, Unrolled
from cxrsynth.data.phantom.shapes import Array


def lung_numbers(lung: Lung, own: Unrolled, other: Unrolled) -> Measured:
    """Measure a lung, also against its partner on the other side."""
    numbers = _cells("grey", own.grey) | _cells("texture", own.texture)
    numbers |= _pleural_line(own.grey, own.texture, own.line)
    numbers |= _dome(own.grey)
    numbers |= _plates(own.line)
    numbers |= _patch(own, other)
    top, bottom, medial, wall = lung.box
    numbers["height"] = (bottom - top) / WORKING_SIZE
    numbers["width"] = abs(wall - medial) / WORKING_SIZE
    numbers["area"] = float((lung.field > 0.5).mean())
    return numbers


def _cells(name: str, unrolled: Array) -> Measured:
    """Means of 5 x 3 cells: five heights (the last holds the base and a little more), three from medial to lateral."""
    table = unrolled.reshape(5, DEPTHS // 5, 3, LATERALS // 3).mean((1, 3))
    return {f"{name} {row}{'mcl'[column]}": float(table[row, column]) for row in range(5) for column in range(3)}


def _pleural_line(grey: Array, texture: Array, line: Array) -> Measured:
    """The best thin bright line that runs down the lung beside the chest wall, and what lies on its two sides."""
    depth = np.arange(4, 32)
    start = np.arange(8, 22)[:, None, None]
    lean = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])[None, :, None]
    bow = (depth - depth.mean()) / len(depth)
    columns = np.clip(start + LATERALS * lean * bow, 0, LATERALS - 1)
    low = columns.astype(int)
    share = columns - low
    high = np.minimum(low + 1, LATERALS - 1)
    along = np.clip((1 - share) * line[depth, low] + share * line[depth, high], -0.15, 0.25)
    half = along[..., :18].mean(-1)  # a small pneumothorax keeps to the upper half
    best = np.maximum(along.mean(-1), 0.85 * half)
    flat = int(np.argmax(best))
    i, j = np.unravel_index(flat, best.shape)
    column = np.clip(np.round(columns[i, j]).astype(int), 4, LATERALS - 3)
    outside, inside = np.arange(LATERALS)[None] > column[:, None] + 1, np.arange(LATERALS)[None] < column[:, None] - 1
    inside &= np.arange(LATERALS)[None] > column[:, None] - 8
    strip = slice(4, 32)
    fall = float(grey[strip][outside].mean() - grey[strip][inside].mean())
    ratio = float(texture[strip][outside].mean() / max(texture[strip][inside].mean(), 1e-3))
    return {
        "line": float(best[i, j]),
        "line over median": float(best[i, j] - np.median(best)),
        "line place": float(start[i, 0, 0]) / LATERALS,
        "line upper": float(half.max()),
        "beyond line grey": fall,
        "beyond line texture": min(ratio, 2.0),
        "line by dark": float(best[i, j]) * max(0.0, 0.3 - fall) * 10,
    }


def _dome(grey: Array) -> Measured:
    """Where the diaphragm's edge lies in three columns, and how sharp it is."""
    numbers = {}
    smooth = gaussian_filter(grey, (1.0, 1.5), mode="nearest")
    for name, column in (("medial", 6), ("centre", 12), ("lateral", 19)):
        profile = smooth[:, column - 2 : column + 3].mean(1)
        slope = np.diff(profile)[20:]
        at = int(np.argmax(slope))
        numbers[f"dome {name} row"] = (at + 20) / DEPTHS
        numbers[f"dome {name} edge"] = float(slope[at])
        numbers[f"dome {name} step"] = float(profile[34:].mean() - profile[24:32].mean())
    numbers["meniscus"] = numbers["dome medial row"] - numbers["dome lateral row"]
    numbers["base fill"] = float(smooth[30:36, 16:22].mean() - smooth[14:22, 10:20].mean())
    return numbers


def _patch(own: Unrolled, other: Unrolled) -> Measured:
    """The place where a lung is most opaque against its partner: how large, ragged and streaked the opacity is."""
    excess = gaussian_filter(own.cloud - other.cloud, 1.0)
    inner = np.zeros(excess.shape, bool)
    inner[4:33, 2:22] = True
    weight = 0.5 * excess + 0.5 * (own.cloud - np.median(own.cloud))
    peak = np.unravel_index(int(np.argmax(np.where(inner, weight, -9))), weight.shape)
    parts, _ = label(inner & (weight > 0.5 * max(float(weight[peak]), 0.05)))
    patch = parts == parts[peak]
    d, a = np.nonzero(patch)
    ring = binary_dilation(patch, iterations=3) & ~binary_dilation(patch, iterations=1)
    ring = ring if ring.any() else ~inner
    slope = np.hypot(*np.gradient(own.cloud))
    height = float(own.grey[patch].mean() - own.grey[ring].mean())
    detail = own.grey - own.cloud
    return {
        "patch excess": float(excess[patch].mean()),
        "patch grey": float(own.grey[patch].mean()),
        "patch height": height,
        "patch share": float(patch.mean()),
        "patch tall": float(np.ptp(d)) / DEPTHS,
        "patch wide": float(np.ptp(a)) / LATERALS,
        "patch depth": float(d.mean()) / DEPTHS,
        "patch lateral": float(a.mean()) / LATERALS,
        "patch base": float(patch[30:33].mean()),
        "patch texture": float(own.texture[patch].mean() / max(float(other.texture[patch].mean()), 0.01)),
        "patch streaks": float(np.minimum(own.line[patch], 0).mean() - np.minimum(other.line[patch], 0).mean()),
        "patch specks": float(np.maximum(own.line[patch], 0).mean() - np.maximum(other.line[patch], 0).mean()),
        "patch detail": float(detail[patch].std() - detail[ring].std()),
        "patch fine": float(own.fine[patch].std() - other.fine[patch].std()),
        "patch border": float(slope[ring].mean() / max(height, 0.1)),
        "patch excess by detail": float(excess[patch].mean()) * float(detail[patch].std()) * 5,
        "patch mid excess": float(excess[patch].mean()) * float(0.25 < d.mean() / DEPTHS < 0.75),
    }


def _plates(line: Array) -> Measured:
    """Bands across the lower lung, brighter than the ribs of the upper lung, at any small slope."""
    lower, upper = [], []
    for shear in (-6, -3, 0, 3, 6):
        rows = np.arange(DEPTHS)[:, None] + np.round(shear * np.linspace(-0.5, 0.5, LATERALS))[None].astype(int)
        band = line[np.clip(rows, 0, DEPTHS - 1), np.arange(LATERALS)[None]]
        runs = (band[:, 3:13].mean(1), band[:, 7:17].mean(1), band[:, 11:21].mean(1))
        for run in runs:
            lower.append(run[18:32])
            upper.append(run[5:18])
    low, high = np.array(lower), np.array(upper)
    second = np.sort(low.max(0))[-4:].mean()
    return {
        "plate": float(low.max()),
        "plate mean": float(second),
        "plate over ribs": float(low.max() - np.percentile(high, 97)),
        "ribs": float(np.percentile(high, 97)),
    }
