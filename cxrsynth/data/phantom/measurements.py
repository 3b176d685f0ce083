"""What can be measured on a chest film, located on anatomy found in its pixels. Each number has a name.

Grey is counted in shares: 0 = aerated lung, 1 = heart or liver of the same film. Three kinds of things are measured: each
lung, each round candidate in a lung, and the whole film.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter, label, map_coordinates, maximum_filter, zoom

from cxrsynth.data.phantom.anatomy import Anatomy, Lung
from cxrsynth.data.phantom.estimate import ATLAS_SIZE, align, atlas, estimate_anatomy
from cxrsynth.data.phantom.shapes import Array

WORKING_SIZE = 128
DEPTHS, LATERALS = 40, 24  # samples of an unrolled lung: apex to just below the base, mediastinum to chest wall
CANDIDATES = 9

Measured = dict[str, float]


@dataclass(frozen=True)
class Measurements:
    """Named numbers of one film: `sides` right and left lung, `candidates` round shadows, `film` the whole."""

    sides: tuple[Measured, Measured]
    candidates: tuple[Measured, ...]
    places: tuple[tuple[int, int], ...]
    film: Measured


@dataclass(frozen=True)
class Layers:
    """Grey shares `[H, W]` of a film and what filters see in it."""

    grey: Array
    smooth: Array
    fine: Array
    texture: Array
    line: Array
    cloud: Array

    @classmethod
    def of(cls, image: Array, anatomy: Anatomy) -> "Layers":
        """Filter a film once for all measurements."""
        grey = (image - anatomy.lung_grey) / (anatomy.tissue_grey - anatomy.lung_grey)
        grey = np.clip(grey, -1.5, 2).astype(np.float32)
        g1, g2, g3 = (gaussian_filter(grey, s, truncate=3) for s in (0.7, 1.5, 3.0))
        return cls(
            grey,
            g2,
            g1 - g2,
            np.sqrt(gaussian_filter((g1 - g2) ** 2, 2.0, truncate=2.5)),
            g1 - g3,
            gaussian_filter(g3, 4.5),
        )


@dataclass(frozen=True)
class Unrolled:
    """One lung as rectangles `[DEPTHS, LATERALS]`, one for each layer."""

    grey: Array
    fine: Array
    texture: Array
    line: Array
    cloud: Array

    @classmethod
    def of(cls, layers: Layers, lung: Lung) -> "Unrolled":
        """Sample the layers from apex to just below the base and from mediastinum to chest wall."""
        top, bottom = lung.box[:2]
        rows = top + np.linspace(0.03, 1.12, DEPTHS) * (bottom - top)
        near = np.clip(rows, 0, WORKING_SIZE - 1)
        medial, wall = (np.interp(near, np.arange(WORKING_SIZE), edge) for edge in lung.walls)
        columns = medial[:, None] + np.linspace(0.04, 1.0, LATERALS) * (wall - medial)[:, None]
        at = [np.broadcast_to(rows[:, None], columns.shape), columns]
        parts = (layers.grey, layers.fine, layers.texture, layers.line, layers.cloud)
        return cls(*(map_coordinates(part, at, order=1, mode="nearest") for part in parts))


def measure_film(image: Array, anatomy: Anatomy | None = None) -> Measurements:
    """Measure one film.

    Args:
        image: `[H, W]` float32 in [0, 1]; brought to 128 x 128 first.
        anatomy: Of the film at 128 x 128, where it is known better than from these pixels.
    """
    image = _working(image)
    placement = align(image)
    anatomy = anatomy or estimate_anatomy(image, placement=placement)
    layers = Layers.of(image, anatomy)
    pair = [Unrolled.of(layers, lung) for lung in anatomy.lungs]
    right, left = (_lung(lung, pair[k], pair[1 - k]) for k, lung in enumerate(anatomy.lungs))
    for numbers, own, other in ((right, *_frames(placement, layers)), (left, *_frames(placement, layers)[::-1])):
        numbers |= _base(own, other)
    sides = tuple(
        own | {f"{name} vs other": own[name] - other[name] for name in own}
        for own, other in ((right, left), (left, right))
    )
    candidates, places = _candidates(anatomy, layers)
    return Measurements((sides[0], sides[1]), candidates, places, _film(placement, anatomy, layers, right, left))


def _working(image: Array) -> Array:
    if image.shape == (WORKING_SIZE, WORKING_SIZE):
        return image.astype(np.float32)
    factor = image.shape[0] / WORKING_SIZE
    smooth = gaussian_filter(image, 0.35 * factor) if factor > 1.3 else image
    zooms = [WORKING_SIZE / n for n in image.shape]
    return zoom(smooth, zooms, order=1, grid_mode=True, mode="nearest").astype(np.float32)


def _cells(name: str, unrolled: Array) -> Measured:
    """Means of 5 x 3 cells: five heights (the last is the base and what lies below it), three from medial to lateral."""
    table = unrolled.reshape(5, DEPTHS // 5, 3, LATERALS // 3).mean((1, 3))
    return {f"{name} {row}{'mcl'[column]}": float(table[row, column]) for row in range(5) for column in range(3)}


def _lung(lung: Lung, own: Unrolled, other: Unrolled) -> Measured:
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


def _frames(placement: Array, layers: Layers) -> tuple[Array, Array]:
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


def _base(own: Array, other: Array) -> Measured:
    """The upper border of what is opaque at the base, column by column: a dome bulges up, a meniscus climbs the wall."""
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


def _candidates(anatomy: Anatomy, layers: Layers) -> tuple[tuple[Measured, ...], tuple[tuple[int, int], ...]]:
    """The roundest bright spots in the lungs: scale-normalised Laplacian maxima, described by ring and shape."""
    field = gaussian_filter(np.maximum(anatomy.lungs[0].field, anatomy.lungs[1].field), 1.0)
    scales = (1.6, 2.3, 3.3)
    blurred = [gaussian_filter(layers.grey, s, truncate=3) for s in (*scales, 4.8)]
    stack = np.stack([blurred[k] - blurred[k + 1] for k in range(3)])
    response = stack.max(0) * (field > 0.35)
    peaks = (response == maximum_filter(response, 7)) & (response > 0.01)
    rows, columns = np.nonzero(peaks)
    order = np.argsort(response[rows, columns])[::-1][:CANDIDATES]
    g = blurred[0]
    gy, gx = np.gradient(g)
    numbers, places = [], []
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radii = np.arange(0.0, 10.0)
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        ring_rows, ring_columns = row + radii[:, None] * np.sin(angles), column + radii[:, None] * np.cos(angles)
        rays = map_coordinates(layers.grey, [ring_rows, ring_columns], order=1, mode="nearest")
        profile = rays.mean(1)
        steps = np.diff(gaussian_filter(rays, (0.6, 0.6), mode=("nearest", "wrap")), axis=0)
        edge = int(np.argmin(np.diff(profile)[1:8])) + 1
        contrast = rays[: max(edge, 2)].mean() - np.median(rays[edge + 1 : edge + 4])
        ring = rays[: max(edge, 2)].mean() - rays[min(edge + 2, 9)]
        gradient = np.hypot(
            gx[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4],
            gy[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4],
        )
        at = (row, column)
        lung = anatomy.lungs[0] if anatomy.lungs[0].field[at] >= anatomy.lungs[1].field[at] else anatomy.lungs[1]
        numbers.append(
            {
                **{f"round {k}": float(stack[k][at]) for k in range(3)},
                "centre": float(layers.smooth[at]),
                "contrast": float(contrast),
                "ring least": float(np.sort(ring)[:3].mean()),
                "ring spread": float(ring.std()),
                "edge radius": edge / 10,
                "edge steep": float(-np.diff(profile)[edge]),
                "edge least": float(np.sort(-steps[edge])[:4].mean()),
                "steep over height": float(-np.diff(profile)[edge] / max(contrast, 0.05)),
                "flat top": float(profile[0] - profile[max(1, edge - 1)]),
                "gradient": float(gradient.max()),
                "texture": float(layers.texture[at]),
                "lateral": float(abs(lung.lateral[at] - 0.5)),
                "medial": float(lung.lateral[at]),
                "depth": float(lung.depth[at]),
                "deep": float(max(lung.depth[at] - 0.75, 0)),
                "field": float(field[at]),
            }
        )
        places.append(at)
    return tuple(numbers), tuple(places)


def _film(placement: Array, anatomy: Anatomy, layers: Layers, right: Measured, left: Measured) -> Measured:
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
