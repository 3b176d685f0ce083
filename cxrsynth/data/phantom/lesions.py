"""Six findings, drawn into the anatomy of any film, simulated or real."""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from cxrsynth.data.phantom.anatomy import Anatomy, Lung
from cxrsynth.data.phantom.change import Change, apply_change, nothing, trim
from cxrsynth.data.phantom.film import Film
from cxrsynth.data.phantom.shapes import Array, bell, smooth_noise, soft_step
from cxrsynth.errors import UserError

Drawer = Callable[[Anatomy, float, np.random.Generator], Change]


def plant(
    image: Array, finding: str, severity: float, rng: np.random.Generator, anatomy: Anatomy
) -> tuple[Array, Array]:
    """Draw a finding into a film.

    Args:
        image: `[H, W]` float32 in [0, 1], air dark.
        finding: One of `FINDINGS`.
        severity: 0 (barely visible) to 1 (gross).
        rng: Draws side, place and shape.
        anatomy: Where the organs of this film are (`estimate_anatomy` for real films).

    Returns:
        The film with the finding, equal to `image` outside the mask, and the lesion's mask `[H, W]` bool.

    Raises:
        UserError: Unknown finding or a severity outside [0, 1].
    """
    change = draw_change(finding, severity, rng, anatomy)
    white = max(1.0, float(image.max()))
    # A film curve through the two greys that are known: aerated lung and solid tissue, 1 unit of attenuation apart.
    share = [np.clip(g / (white * 1.02), 0.02, 0.98) for g in (anatomy.lung_grey, anatomy.tissue_grey)]
    low, high = (float(np.log(s / (1 - s))) for s in share)
    gain = max(high - low, 0.2)
    film = Film(gain, 1.0 - low / gain, 0.0, white * 1.02)
    changed = film.grey(apply_change(film.attenuation(image), change, tissue=1.85))
    return np.where(change.mask, np.clip(changed, 0, white), image).astype(np.float32), change.mask


def draw_change(finding: str, severity: float, rng: np.random.Generator, anatomy: Anatomy) -> Change:
    """The change that a finding makes to this anatomy (see `plant`)."""
    if finding not in DRAWERS:
        raise UserError(f"finding is {finding!r} but must be one of {', '.join(DRAWERS)}; choose one of these")
    if not 0 <= severity <= 1:
        raise UserError(f"severity is {severity!r} but must lie in [0, 1]; choose a value in that range")
    return DRAWERS[finding](anatomy, severity, rng)


def _either_lung(anatomy: Anatomy, rng: np.random.Generator) -> Lung:
    return anatomy.lungs[int(rng.random() < 0.5)]


def _reach(field: Array) -> Array:
    """Where an opacity may fill: all air, up to and into the soft border that lung and organ share, or a seam shows."""
    return np.clip(5 * field - 0.2, 0, 1)


def _grid(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Column and row of every pixel."""
    return np.arange(shape[1], dtype=np.float32)[None, :], np.arange(shape[0], dtype=np.float32)[:, None]


def draw_effusion(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> Change:
    """Fluid at the base: a meniscus that climbs the chest wall, fading upward as the layer gets thinner."""
    lung = _either_lung(anatomy, rng)
    size = lung.field.shape[0]
    x, y = _grid(lung.field.shape)
    top, bottom, medial, wall = lung.box
    across = np.clip((x - medial) / (wall - medial), 0, 1.1)
    height = (bottom - top) * (0.13 + 0.42 * severity + rng.uniform(-0.02, 0.02))
    climb = rng.uniform(0.35, 0.6)
    curve = climb * across ** rng.uniform(1.8, 3.0) + 0.12 * (1 - across) ** 4 + (1 - climb) * 0.75
    level = bottom - height * curve
    soft = size * rng.uniform(0.018, 0.035)
    fluid = soft_step(y - level, soft) * np.clip(0.66 + 0.3 * (y - level) / (0.5 * height), 0.5, 0.97)
    veil = 0.25 * severity * soft_step(y - level + 0.6 * height, 0.6 * height)  # fluid layering behind the lung
    fill = trim(np.maximum(fluid, veil) * _reach(lung.field), 0.1)
    return Change(fill, nothing(fill.shape), nothing(fill.shape), f"{lung.side} lung base")


def draw_consolidation(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> Change:
    """Ill-defined air-space opacity with fluffy borders and dark branching air bronchograms."""
    lung = _either_lung(anatomy, rng)
    shape = lung.field.shape
    size = shape[0]
    zone = rng.choice(["upper", "middle", "lower"], p=[0.3, 0.3, 0.4])
    depth = {"upper": rng.uniform(0.2, 0.34), "middle": rng.uniform(0.42, 0.56), "lower": rng.uniform(0.64, 0.78)}[zone]
    cx, cy = lung.at(rng.uniform(0.35, 0.65), depth)
    x, y = _grid(shape)
    span = (lung.box[1] - lung.box[0]) * (0.17 + 0.12 * severity)
    distance = np.hypot((x - cx) / (span * rng.uniform(0.8, 1.1)), (y - cy) / (span * rng.uniform(0.75, 1.0)))
    ragged = distance + 0.2 * smooth_noise(rng, shape, 9) + 0.13 * smooth_noise(rng, shape, 22)
    cloud = soft_step(0.95 - ragged, 0.38) * (0.8 + 0.3 * smooth_noise(rng, shape, 20))
    fissure = lung.side == "right" and zone == "middle" and rng.random() < 0.5
    if fissure:
        cloud = cloud * soft_step(y - cy + 0.35 * span, 0.01 * size)
    hx, hy = lung.at(0.0, 0.42)
    angle = np.arctan2(y - hy, (x - hx) * lung.sign)
    reach = np.hypot(x - hx, y - hy)
    wave = angle * 9 + 1.3 * smooth_noise(rng, shape, 9) + rng.uniform(0, 6)
    tubes = bell(np.sin(wave), 0.22) * soft_step(reach - 0.06 * size, 0.03 * size)
    tubes = tubes * np.clip(0.7 + 0.6 * smooth_noise(rng, shape, 12), 0, 1)
    fill = trim(np.clip(cloud * (0.54 + 0.38 * severity), 0, 1) * _reach(lung.field), 0.1)
    add = -0.5 * fill * tubes
    return Change(fill, add, nothing(shape), f"{lung.side} {zone} zone")


def draw_pneumothorax(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> Change:
    """Air between lung and chest wall: a fine pleural line, beyond it no markings and slightly more black."""
    lung = _either_lung(anatomy, rng)
    size = lung.field.shape[0]
    x, y = _grid(lung.field.shape)
    _, bottom, medial, _ = lung.box
    shrink_x = 1 - (0.1 + 0.26 * severity) * rng.uniform(0.9, 1.1)
    shrink_y = 1 - (0.07 + 0.16 * severity) * rng.uniform(0.8, 1.2)
    solid = (lung.lateral > -2) * soft_step(lung.field - 0.5, 0.4)
    wide = gaussian_filter(solid, 0.012 * size)
    rows = bottom + (y - bottom) / shrink_y
    columns = medial + (x - medial) / shrink_x
    rows, columns = np.broadcast_arrays(rows, columns)
    collapsed = map_coordinates(wide, [rows, columns], order=1)
    collapsed = np.where(lung.lateral < 0.25, np.maximum(collapsed, soft_step(0.15 - lung.lateral, 0.1)), collapsed)
    inner = soft_step(collapsed - 0.5, 0.3)
    fade = soft_step(0.96 - lung.depth + 0.1 * severity, 0.12)
    fade = fade * soft_step(lung.lateral - 0.15, 0.12)
    rim = trim((1 - inner) * lung.field * fade, 0.15)
    # The pleura is half a pixel to a pixel thin, so it is drawn by distance, from the value and slope of the field.
    gy, gx = np.gradient(collapsed)
    away = np.abs(collapsed - 0.5) / np.maximum(np.hypot(gx, gy), 1e-3)
    line = trim(bell(away, 0.0055 * size) * lung.field * fade, 0.3)
    add = 0.34 * line - (0.12 + 0.1 * severity) * rim * (1 - line)
    return Change(nothing(rim.shape), add.astype(np.float32), rim, f"{lung.side} apex and lateral chest wall")


def draw_nodule(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> Change:
    """A round solid body, slightly lobulated, with a rim sharper than that of a vessel seen end on."""
    lung = _either_lung(anatomy, rng)
    size = lung.field.shape[0]
    depth = rng.uniform(0.18, 0.85)
    cx, cy = lung.at(rng.uniform(0.22, 0.82), depth)
    x, y = _grid(lung.field.shape)
    radius = size * (0.021 + 0.024 * severity)
    angle = np.arctan2(y - cy, x - cx)
    lobes = 1 + 0.06 * np.cos(3 * angle + rng.uniform(0, 6)) + 0.04 * np.cos(5 * angle + rng.uniform(0, 6))
    squeeze = rng.uniform(0.85, 1.15)
    distance = np.hypot((x - cx) * squeeze, (y - cy) / squeeze) / (radius * lobes)
    body = np.sqrt(np.clip(1.05 - distance**2, 0, 1)) ** 0.45
    add = (0.36 + 0.28 * severity) * trim(body * np.sqrt(lung.field), 0.1)
    zone = "upper" if depth < 0.37 else "middle" if depth < 0.62 else "lower"
    return Change(nothing(add.shape), add.astype(np.float32), nothing(add.shape), f"{lung.side} {zone} zone")


def draw_cardiomegaly(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> Change:
    """The heart grown sideways, mostly to the left; what the larger silhouette covers is the lesion."""
    heart = anatomy.heart
    size = heart.shape[0]
    x, y = _grid(heart.shape)
    rows = np.flatnonzero((heart > 0.5).any(1))
    lungs = anatomy.lungs[0].field + anatomy.lungs[1].field
    base = max(lung.box[1] for lung in anatomy.lungs)
    top = min(lung.box[0] for lung in anatomy.lungs)
    medial = 0.5 * (anatomy.lungs[0].box[2] + anatomy.lungs[1].box[2])
    weight = heart * (y > top + 0.45 * (base - top))
    centre = float((weight * x).sum() / max(weight.sum(), 1)) if len(rows) else medial
    pivot = centre - 0.02 * size
    grow = 1 + (0.24 + 0.34 * severity) * rng.uniform(0.9, 1.1)
    low = soft_step(y - top - 0.52 * (base - top), 0.16 * (base - top))
    stretch_left, stretch_right = 1 + (grow - 1) * 1.1 * low, 1 + (grow - 1) * 0.75 * low
    columns = pivot + (x - pivot) / np.where(x > pivot, stretch_left, stretch_right)
    lift = 1 + 0.1 * severity
    sources = np.broadcast_arrays(base + (y - base) / lift, columns)
    larger = map_coordinates(heart, list(sources), order=1)
    extra = larger * _reach(lungs) * low
    fill = trim(np.clip(0.82 * extra, 0, 1), 0.08)
    return Change(fill, nothing(fill.shape), nothing(fill.shape), "heart")


def draw_atelectasis(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> Change:
    """Collapsed lung at the base: plates, a wedge with one sharp edge, and a raised diaphragm (volume loss)."""
    lung = _either_lung(anatomy, rng)
    shape = lung.field.shape
    size = shape[0]
    x, y = _grid(shape)
    tall = lung.box[1] - lung.box[0]
    plates = nothing(shape)
    for _ in range(1 + int(rng.random() < 0.6) + int(severity > 0.5)):
        cx, cy = lung.at(rng.uniform(0.35, 0.6), rng.uniform(0.6, 0.8))
        slope = rng.uniform(-0.35, 0.2) * lung.sign
        length = tall * (0.19 + 0.1 * severity) * rng.uniform(0.9, 1.2)
        along = (x - cx) + slope * (y - cy)
        bow = 0.12 * along**2 / length
        off = (y - cy) - slope * (x - cx) + bow
        thick = size * (0.008 + 0.006 * severity)
        plates = np.maximum(plates, bell(off, thick) * soft_step(length - np.abs(along), 0.25 * length))
    # The dome follows the lung that shrank: tissue takes the lowest part of each column of the field.
    floor = _floor(lung)
    rise = tall * (0.04 + 0.09 * severity)
    raised = soft_step(y - (floor - rise), 0.012 * size) * soft_step(floor - lung.box[1] + 0.3 * tall, 0.06 * tall)
    cx, cy = lung.at(0.2, 0.85)
    wedge = soft_step((y - cy) + 0.9 * (x - cx) * lung.sign * -1 + 0.05 * tall, 0.02 * size)
    wedge = wedge * bell(np.hypot(x - cx, y - cy), 0.16 * tall) * (0.25 + 0.4 * severity)
    fill = np.maximum(np.maximum((0.48 + 0.3 * severity) * plates, 0.95 * raised), wedge) * _reach(lung.field)
    return Change(trim(np.clip(fill, 0, 1), 0.1), nothing(shape), nothing(shape), f"{lung.side} lower zone")


def _floor(lung: Lung) -> Array:
    """Lowest row of the lung in each column `[1, W]`, smooth."""
    inside = lung.field > 0.5
    rows = np.arange(inside.shape[0], dtype=np.float32)[:, None]
    lowest = np.where(inside, rows, 0).max(0)
    filled = np.where(inside.any(0), lowest, lung.box[1])
    return gaussian_filter(filled, 0.015 * len(filled))[None].astype(np.float32)


DRAWERS: dict[str, Drawer] = {
    "Effusion": draw_effusion,
    "Consolidation": draw_consolidation,
    "Pneumothorax": draw_pneumothorax,
    "Nodule": draw_nodule,
    "Cardiomegaly": draw_cardiomegaly,
    "Atelectasis": draw_atelectasis,
}
FINDINGS = tuple(DRAWERS)
