"""Lung markings: branching vessel trees from the hila, and the fine grain of the parenchyma."""

import numpy as np
from PIL import Image, ImageDraw

from cxrsynth.data.phantom.patient import Patient
from cxrsynth.data.phantom.shapes import Array, Frame, bell, smooth_noise


def render_vessels(patient: Patient, frame: Frame, lungs: Array, rng: np.random.Generator) -> Array:
    """Attenuation `[H, W]` of hila, vessels and parenchyma inside the lungs `[2, H, W]`."""
    factor = 2 if frame.size >= 256 else 3
    canvas = Image.new("L", (frame.size * factor, frame.size * factor))
    pen = ImageDraw.Draw(canvas)
    generations = 4 if frame.size < 192 else 5 if frame.size < 384 else 6
    strokes = [
        stroke
        for side, own in zip((-1, 1), rng.spawn(2), strict=True)
        for stroke in _tree(side, patient.lung_width, generations, own)
    ]
    unit = factor / frame.pixel
    for start, end, width in sorted(strokes, key=lambda stroke: stroke[2].mean()):
        x0, y0 = frame.to_pixels(start[:, 0], start[:, 1])
        x1, y1 = frame.to_pixels(end[:, 0], end[:, 1])
        lines = (np.stack([x0, y0, x1, y1], 1) + 0.5) * factor
        for line, w in zip(lines.tolist(), (width * unit).tolist(), strict=True):
            pen.line(
                line,
                fill=min(255, int(60 + 24 * w / factor * frame.pixel / 0.0025)) if w >= 1 else int(150 * w) + 20,
                width=max(1, round(w)),
            )
    tree = np.asarray(canvas.reduce(factor), dtype=np.float32) / 255
    hila = np.zeros_like(frame.u)
    for side in (-1, 1):
        for _ in range(4):
            u, v = side * (0.125 + rng.uniform(-0.02, 0.025)), (0.42 if side < 0 else 0.39) + rng.uniform(-0.07, 0.08)
            hila += rng.uniform(0.12, 0.26) * bell(frame.u - u, 0.024) * bell(frame.v - v, rng.uniform(0.03, 0.055))
    grain = sum(0.5**k * smooth_noise(rng, frame.u.shape, 18 * 2**k) for k in range(3 if frame.size >= 192 else 2))
    field = lungs.sum(0)
    return (field * (patient.vessels * (0.6 * tree + hila) + 0.028 * grain)).astype(np.float32)


def _tree(side: int, lung_width: float, generations: int, rng: np.random.Generator) -> list[tuple[Array, Array, Array]]:
    """Segments of one lung's vessels: (start [N, 2], end [N, 2], width [N]) in body units."""
    angle = np.array([-1.35, -1.0, -0.6, -0.1, 0.35, 0.7, 0.95, 1.15, 1.35]) + rng.normal(0, 0.12, 9)
    count = len(angle)
    start = np.stack([rng.uniform(0.09, 0.13, count), 0.41 + 0.08 * np.linspace(-1, 1, count)], 1)
    width = rng.uniform(0.008, 0.015, count) * (1 + 0.45 * np.linspace(-1, 1, count))
    length = 0.1 * lung_width / 0.55 * (0.8 + 0.6 * np.abs(np.sin(angle)))
    strokes = []
    for _ in range(generations):
        for _third in range(3):
            step = (length / 3)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
            end = start + step
            strokes.append((start * (side, 1), end * (side, 1), width.copy()))
            start, angle, width = end, angle + rng.normal(0, 0.2, len(angle)), width * 0.95
        fork = rng.uniform(0.25, 0.65, len(angle))
        start = np.concatenate([start, start])
        angle = np.concatenate([angle + fork * rng.uniform(0.3, 1, len(fork)), angle - fork])
        width = np.concatenate([width * rng.uniform(0.5, 0.75, len(fork)), width * rng.uniform(0.6, 0.85, len(fork))])
        length = np.concatenate([length, length]) * rng.uniform(0.7, 1.0, 2 * len(fork))
    return strokes
