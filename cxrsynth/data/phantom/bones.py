"""Ribs, spine, clavicles, scapulae and humeri: cortical shells seen in projection."""

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from cxrsynth.data.phantom.patient import Exposure, Patient
from cxrsynth.data.phantom.shapes import Array, Frame, bell, soft_step
from cxrsynth.data.phantom.thorax import Thorax


def render_bones(patient: Patient, exposure: Exposure, frame: Frame, thorax: Thorax, rng: np.random.Generator) -> Array:
    """Attenuation `[H, W]` of all bones."""
    bones = _ribs(patient, frame, thorax.cage, rng)
    bones += _spine(patient, frame)
    bones += _clavicles(exposure, frame, rng)
    bones += _shoulders(exposure, frame, rng)
    # Scatter: behind dense tissue bones lose contrast.
    return (patient.bone * bones * 1.15 / (1 + np.exp(2.2 * (thorax.attenuation - 1.75)))).astype(np.float32)


def _shaft(distance: Array, radius: float, pixel: float) -> Array:
    """A hollow cylinder seen from the side: a plateau with bright borders."""
    soft = max(0.005, 0.6 * pixel)
    return 0.6 * soft_step(radius - distance, soft) + 0.4 * bell(distance - 0.8 * radius, max(0.006, 0.7 * pixel))


def _ribs(patient: Patient, frame: Frame, cage: Array, rng: np.random.Generator) -> Array:
    """Twelve pairs of tilted ellipses, back and front halves, seen from the front.

    A rib is an ellipse whose front lies lower than its back, so in projection the back half runs out and down, turns at
    the side of the chest, and the front half runs in and down. One phase map per half draws all ribs of it at once.
    """
    wide = cage + 0.022
    au = np.abs(frame.u)
    inside = soft_step(wide - au, max(0.008, frame.pixel))
    c = np.sqrt(np.clip(1 - (au / np.maximum(wide, 0.02)) ** 2, 0.0, 1))
    spacing, tilt = patient.rib_spacing, patient.rib_tilt
    shift = rng.normal(0, 0.012, 2)
    skew = np.where(frame.u < 0, shift[0], shift[1]).astype(np.float32)
    steep = tilt * (au / np.maximum(wide, 0.05) ** 2) / np.maximum(c, 0.25)
    slope = np.sqrt(1 + steep**2)
    total = np.zeros_like(frame.u)
    jitter = rng.normal(0, 0.06, (2, 16)).astype(np.float32)
    for half, level in enumerate((frame.v - tilt * (1 - c), frame.v - tilt - 1.15 * tilt * c)):
        phase = (level + 0.035 + skew) / spacing
        index = np.clip(np.round(phase), 0, 15).astype(np.int64)
        distance = np.abs(phase - index - jitter[half][index]) * spacing / slope
        radius = (0.2 if half == 0 else 0.235) * spacing
        last = 11 if half == 0 else 7
        exists = soft_step(phase + 0.5, 0.1) * soft_step(last + 0.5 - phase, 0.1)
        if half == 1:
            exists = exists * soft_step(au / np.maximum(wide, 0.05) - 0.42 - 0.02 * index, 0.08)
        else:
            exists = exists * soft_step(au - 0.05, 0.02)
        total += exists * _shaft(distance, radius, frame.pixel) * (0.27, 0.17)[half] * np.minimum(1, 0.4 + 2 * c)
    calcium = max(0.0, patient.unfolding - 0.4) * soft_step(0.05 - np.abs(au / np.maximum(wide, 0.05) - 0.42), 0.04)
    return inside * total * (1 + calcium)


def _spine(patient: Patient, frame: Frame) -> Array:
    """Vertebral bodies, disc spaces, pedicles and spinous processes."""
    u, v = frame.u, frame.v
    height = 0.92 * patient.rib_spacing
    half = 0.052 + 0.012 * np.clip(v, 0, 1)
    phase = (v + 0.5) / height
    wave = np.cos(2 * np.pi * phase)
    body = soft_step(half + 0.006 * wave - np.abs(u), 0.012)
    disc = 0.35 * soft_step(wave - 0.75, 0.2)
    pedicle = bell(np.abs(u) - 0.6 * half, 0.008) * soft_step(-wave - 0.3, 0.4)
    process = bell(u, 0.007) * soft_step(-wave - 0.2, 0.4)
    return 0.36 * body * (1 - disc) + 0.16 * pedicle + 0.14 * process


def _clavicles(exposure: Exposure, frame: Frame, rng: np.random.Generator) -> Array:
    """Two S-shaped shafts, flatter and higher in a film taken in bed."""
    total = np.zeros_like(frame.u)
    bed = exposure.view == "AP"
    rise = rng.uniform(0.0, 0.06) if bed else rng.uniform(0.04, 0.12)
    base = rng.uniform(0.03, 0.09) if bed else rng.uniform(0.09, 0.15)
    for side in (-1, 1):
        t = (side * (frame.u - 2 * exposure.turn) - 0.06) / 0.42
        tilt = rise + rng.normal(0, 0.01)
        curve = base - tilt * t + 0.012 * np.sin(2 * np.pi * np.clip(t, 0, 1))
        slope = np.sqrt(1 + (tilt / 0.42) ** 2)
        radius = 0.017 + 0.012 * bell(t, 0.25) + 0.004 * bell(t - 0.9, 0.2)
        present = soft_step(t, 0.025) * soft_step(1.0 - t, 0.2)
        distance = np.abs(frame.v - curve) / slope
        soft = max(0.006, 0.6 * frame.pixel)
        shaft = 0.55 * soft_step(radius - distance, soft) + 0.35 * bell(
            distance - 0.8 * radius, max(0.006, 0.7 * frame.pixel)
        )
        total += 0.6 * present * shaft
    return total


def _shoulders(exposure: Exposure, frame: Frame, rng: np.random.Generator) -> Array:
    """Scapular blades (over the lungs in AP, swung out in PA), humeral heads and shafts."""
    factor = 2
    canvas = Image.new("L", (frame.size * factor, frame.size * factor))
    pen = ImageDraw.Draw(canvas)
    out = rng.uniform(-0.03, 0.03) + (0.0 if exposure.view == "AP" else 0.17)
    heads = np.zeros_like(frame.u)
    for side in (-1, 1):
        corners = np.array(
            [
                (0.33, 0.12),
                (0.62, 0.1),
                (0.68, 0.16),
                (0.62, 0.24),
                (0.53, 0.42),
                (0.45, 0.6),
                (0.40, 0.58),
                (0.36, 0.35),
            ]
        )
        corners = corners + rng.normal(0, 0.008, corners.shape) + (out, 0.0)
        x, y = frame.to_pixels(side * corners[:, 0], corners[:, 1])
        pen.polygon(list(zip(((x + 0.5) * factor).tolist(), ((y + 0.5) * factor).tolist(), strict=True)), fill=255)
        hu, hv = side * (0.78 + 0.5 * out), 0.13
        ball = np.hypot(frame.u - hu, frame.v - hv)
        heads += 0.42 * soft_step(0.075 - ball, 0.012) + 0.12 * bell(ball - 0.07, 0.008)
        lean = 0.1 if exposure.view == "AP" else 0.42
        shaft = np.abs(side * frame.u - abs(hu) - lean * (frame.v - hv) - 0.01) / np.hypot(1, lean)
        heads += 0.7 * _shaft(shaft, 0.038, frame.pixel) * soft_step(frame.v - hv - 0.02, 0.03)
    blade = np.asarray(canvas.reduce(factor), dtype=np.float32) / 255
    fine = gaussian_filter(blade, 0.009 / frame.pixel)
    border = np.clip(fine - gaussian_filter(blade, 0.02 / frame.pixel), 0, 1)
    return heads + 0.08 * fine + 0.35 * border
