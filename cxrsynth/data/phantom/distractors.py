"""What healthy films also show: nipples, tubes, electrodes, scars, side markers."""

import numpy as np
from PIL import Image, ImageDraw

from cxrsynth.data.phantom.patient import Exposure, Patient
from cxrsynth.data.phantom.shapes import Array, Frame, bell, soft_step
from cxrsynth.data.phantom.thorax import Thorax


def render_distractors(patient: Patient, frame: Frame, thorax: Thorax, rng: np.random.Generator) -> Array:
    """Attenuation `[H, W]` of harmless or foreign shadows; often none."""
    total = np.zeros_like(frame.u)
    if rng.random() < 0.3:
        total += _nipples(patient, frame, rng)
    if rng.random() < 0.15:
        total += _scars(frame, rng)
    if rng.random() < (0.45 if frame.exposure.view == "AP" else 0.06):
        total += _wires(frame, rng)
    return total


def _nipples(patient: Patient, frame: Frame, rng: np.random.Generator) -> Array:
    """A pair of small faint discs at breast height: like nodules, but on both sides."""
    u, v = 0.62 * patient.lung_width + rng.uniform(-0.02, 0.03), 0.77 + rng.uniform(-0.03, 0.06)
    pair = [np.hypot(frame.u - side * u, frame.v - v - rng.uniform(-0.01, 0.01)) for side in (-1, 1)]
    radius = rng.uniform(0.012, 0.018)
    return rng.uniform(0.08, 0.2) * np.add(*(soft_step(radius - d, 0.012) for d in pair))


def _scars(frame: Frame, rng: np.random.Generator) -> Array:
    """Thin apical strands, too small to be reported."""
    side = rng.choice([-1, 1])
    line = frame.v - 0.16 - rng.uniform(0, 0.06) - rng.uniform(-0.6, 0.6) * (side * frame.u - 0.28)
    return 0.13 * bell(line, 0.007) * bell(side * frame.u - 0.28, 0.05)


def _wires(frame: Frame, rng: np.random.Generator) -> Array:
    """Electrodes with leads, or a venous line that ends at the right atrium."""
    canvas = Image.new("L", (frame.size * 2, frame.size * 2))
    pen = ImageDraw.Draw(canvas)
    width = max(1, round(0.012 / frame.pixel))
    t = np.linspace(0, 1, 14)
    for _ in range(int(rng.integers(1, 4))):
        u0, v0 = rng.uniform(-0.6, 0.6), rng.uniform(0.0, 0.95)
        u1, v1 = rng.choice([-0.9, 0.9]), rng.uniform(-0.1, 1.1)
        bend = rng.uniform(-0.2, 0.2)
        x, y = frame.to_pixels(u0 + (u1 - u0) * t, v0 + (v1 - v0) * t + bend * np.sin(np.pi * t))
        points = list(zip((2 * x + 1).tolist(), (2 * y + 1).tolist(), strict=True))
        pen.line(points, fill=90, width=width)
        r = 0.016 / frame.pixel * 2
        (px, py) = points[0]
        pen.ellipse((px - r, py - r, px + r, py + r), outline=200, width=max(1, width))
    if rng.random() < 0.5:
        v = np.linspace(-0.3, 0.52, 14)
        x, y = frame.to_pixels(-0.035 - 0.04 * np.clip(v / 0.3, 0, 1), v)
        pen.line(list(zip((2 * x + 1).tolist(), (2 * y + 1).tolist(), strict=True)), fill=150, width=width)
    return np.asarray(canvas.reduce(2), dtype=np.float32) / 255 * 0.9


def draw_labels(image: Array, patient: Patient, exposure: Exposure, rng: np.random.Generator) -> Array:
    """Side marker and, in some films, letters burnt in at the upper corners. Neither tells view nor finding."""
    size = image.shape[0]
    if rng.random() < 0.35:
        return image
    canvas = Image.new("L", (size, size))
    letter = rng.choice(["L", "L", "R"])
    x = size * (rng.uniform(0.86, 0.93) if letter == "L" else rng.uniform(0.04, 0.1))
    ImageDraw.Draw(canvas).text(
        (x, size * rng.uniform(0.02, 0.1)), str(letter), fill=235, font_size=max(7, 0.05 * size)
    )
    return np.maximum(image, np.asarray(canvas, dtype=np.float32) / 255)
