"""Soft tissue and air: body, lungs, diaphragm, heart, great vessels, airways, breasts, stomach."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from cxrsynth.data.phantom.patient import Exposure, Patient
from cxrsynth.data.phantom.shapes import Array, Frame, bell, smooth_noise, soft_step


@dataclass(frozen=True)
class Thorax:
    """The soft parts of one film, `[H, W]` each.

    Attributes:
        attenuation: Sum of all soft tissue, without lung markings and bones.
        lungs: `[2, H, W]` in [0, 1]: the visible lung fields, image left (the patient's right) first.
        heart: Silhouette of heart and great vessels' roots in [0, 1].
        cage: Half width of the rib cage at each pixel's height, body units.
        air: Attenuation that the air in the lungs takes away.
    """

    attenuation: Array
    lungs: Array
    heart: Array
    cage: Array
    air: Array


def render_thorax(patient: Patient, exposure: Exposure, frame: Frame, rng: np.random.Generator) -> Thorax:
    """Sum of the soft tissues along each ray."""
    u, v = frame.u, frame.v
    edge = max(0.008, 0.8 * frame.pixel)
    au = np.abs(u)
    cage = _cage(patient, v)
    dome = _dome(patient, exposure, u, rng)
    mu = _body(patient, exposure, frame)

    field = soft_step(cage - au, edge) * soft_step(dome - v, edge)
    field *= soft_step(au - 0.055 - 0.35 * np.clip(0.16 - v, 0, 1) ** 1.2, 2 * edge)
    recess = soft_step(cage - 0.03 - au, 0.03) * soft_step(dome + 0.1 - v, 0.07) * soft_step(au - 0.1, 0.05)
    depth = np.clip((cage - au) * 4.5, 0, 1) ** 0.4 * (0.72 + 0.28 * soft_step(v - 0.18, 0.2))
    mu = mu - (1.02 * field * depth + 0.16 * recess * (1 - field) * soft_step(v - 0.5, 0.1))

    heart, knob_rim = _silhouette(patient, exposure, frame)
    # The middle of the heart is its thickest part; its borders let some lung through.
    middle = bell(u - 0.06, 0.2) * soft_step(v - 0.3, 0.4)
    mu = mu + field * depth * heart * (0.68 + 0.2 * middle) + 0.1 * middle * heart + 0.3 * knob_rim
    mu = mu + 0.035 * smooth_noise(rng, u.shape, 9) * (mu > 0.3)
    mu = mu - _airways(frame, exposure)
    mu = mu + _breasts(patient, exposure, frame, rng) * 1.1 / (1 + np.exp(2.5 * (mu - 1.9)))
    mu = mu - _bowel_gas(patient, exposure, frame, dome, rng)
    visible = field * (1 - heart)
    lungs = np.stack([visible * (u < 0), visible * (u >= 0)]).astype(np.float32)
    air = (field * depth * (1 - heart)).astype(np.float32)
    return Thorax(mu.astype(np.float32), lungs, heart, cage, air)


def _cage(patient: Patient, v: Array) -> Array:
    """Half width of the rib cage at each height: an apex like a pointed arch, nearly straight sides."""
    t = np.clip(v / 0.85, 0, 1)
    arch = (1 - (1 - t) ** patient.shape) ** 0.56
    return patient.lung_width * arch * (1 - 0.05 * np.clip(v - 0.85, 0, 1) / 0.15)


def _dome(patient: Patient, exposure: Exposure, u: Array, rng: np.random.Generator) -> Array:
    """Height of each diaphragm dome: an arc that falls steeply into the costophrenic angle."""
    left = soft_step(u, 0.05)
    peak = rng.uniform(0.42, 0.5) * patient.lung_width
    lateral = np.clip((np.abs(u) - peak) / (1.03 * patient.lung_width - peak), 0, 1)
    medial = np.clip((peak - np.abs(u)) / peak, 0, 1)
    fall = rng.uniform(0.2, 0.3) * (1 - np.sqrt(1 - 0.98 * lateral**2)) + 0.06 * medial**2
    lobes = 0.005 * np.sin(u * rng.uniform(14, 20) + rng.uniform(0, 6))
    return exposure.breath - patient.dome_gap * (1 - left) * 0.7 + 0.012 * left + fall + lobes


def _body(patient: Patient, exposure: Exposure, frame: Frame) -> Array:
    """Neck, shoulders, arms and torso without lungs."""
    v, au = frame.v, np.abs(frame.u)
    wall = 0.1 + 0.16 * patient.fat
    torso_edge = patient.lung_width + wall + 0.06 * bell(v - 0.25, 0.15) + 0.05 * soft_step(v - 0.8, 0.4) * patient.fat
    slope = 0.4 + 0.1 * (exposure.view == "PA") - 0.06 * patient.fat
    shoulder = -0.27 + slope * np.clip(au - 0.12, 0, None) ** 0.62 - 0.05 * patient.fat
    neck = 0.2 + 0.05 * patient.fat + (0.015 if patient.sex == "M" else 0)
    top = soft_step(v - shoulder, 0.03)
    thin = np.clip((v - shoulder) / 0.16, 0, 1) ** 0.5  # the shoulder's ridge is thin
    torso = soft_step(torso_edge - au, 0.015) * top
    thickness = np.sqrt(np.clip(1.02 - (au / (torso_edge + 0.02)) ** 2.4, 0, 1))
    trunk = torso * (0.25 + (1.55 + 0.3 * patient.fat) * thickness) * (0.45 + 0.55 * thin)
    throat = np.sqrt(np.clip(1 - (au / (neck + 0.2 * np.clip(v + 0.3, 0, 1))) ** 2, 0, 1))
    mu = np.maximum(trunk, 1.75 * throat * soft_step(0.2 - v, 0.2))
    # Arms: down beside the body in bed, lifted away in a standing film.
    start, lean = (0.86, 0.1) if exposure.view == "AP" else (0.8, 0.42)
    reach = start + lean * np.clip(v, -0.3, 2) - wall * 0.1
    arm_width = 0.12 + 0.05 * patient.fat
    arm = np.clip(1 - ((au - reach) / arm_width) ** 2, 0, 1) ** 0.5 * top * soft_step(v + 0.05, 0.2)
    shoulder_cap = np.clip(1 - ((au - 0.72) / 0.3) ** 2 - ((v - 0.12) / 0.3) ** 2, 0, 1) ** 0.5 * top
    mu = np.maximum(mu, np.maximum(0.4 * (arm > 0) + 0.9 * arm, 1.55 * shoulder_cap))
    belly = soft_step(v - exposure.breath, 0.12)
    middle = bell(au, 0.12) * soft_step(v + 0.02, 0.1)
    return mu + torso * (0.4 * belly * thickness + 0.25 * middle)


def _silhouette(patient: Patient, exposure: Exposure, frame: Frame) -> tuple[Array, Array]:
    """Silhouette of heart and great vessels between two smooth borders, and the calcified rim of the aortic knob."""
    bed, old = exposure.view == "AP", patient.unfolding
    ratio = patient.heart_ratio + (0.03 if bed else 0.0)
    width = 2 * ratio * patient.lung_width
    upper = 1.2 if bed else 1.0
    low = exposure.breath - 0.88
    v_left = np.array(
        [-0.5, 0.05, 0.16, 0.34, 0.43, 0.52, 0.62 + low, 0.72 + low, 0.82 + low, 0.9 + low, 1.0 + low, 1.2]
    )
    left = np.array([0.05, 0.055, 0.065, 0.08 + 0.03 * old, 0.108, 0.15, 0.225, 0.29, 0.332, 0.342, 0.32, 0.2])
    v_right = np.array([-0.5, 0.05, 0.2, 0.4, 0.5, 0.6 + low, 0.7 + low, 0.8 + low, 0.9 + low, 1.0 + low, 1.2])
    right = np.array([0.04, 0.065, 0.08 + 0.02 * old, 0.095, 0.12, 0.155, 0.173, 0.17, 0.15, 0.12, 0.1])
    # Above 0.45 these are vessels, which keep their own width; below it is the heart, which has the heart's.
    left = np.where(v_left < 0.45, left * upper, left / 0.515 * width)
    right = np.where(v_right < 0.45, right * upper, right / 0.515 * width)
    edge = max(0.011, frame.pixel)
    heart_u = frame.u - exposure.turn * (1 + 2 * soft_step(frame.v - 0.5, 0.2))
    soft = edge + 0.025 * soft_step(0.1 - frame.v, 0.15)  # above the clavicles the borders melt into the neck
    band = soft_step(_border(v_left, left, frame.v) - heart_u, soft) * soft_step(
        heart_u + _border(v_right, right, frame.v), soft
    )
    radius = upper * (0.042 + 0.032 * old)
    ku, kv = upper * (0.062 + 0.024 * old), 0.27 - 0.025 * old
    distance = np.hypot(heart_u - ku, (frame.v - kv) * 0.85)
    knob = soft_step(radius - distance, edge)
    # The descending aorta leaves the spine as it unfolds with age.
    lateral = 0.075 + 0.06 * old * bell(frame.v - 0.52, 0.16) + 0.015 * old
    descending = (
        0.8 * old * soft_step(lateral - heart_u, edge) * soft_step(heart_u, edge) * soft_step(frame.v - kv, 0.03)
    )
    rim = bell(distance - 0.9 * radius, max(0.007, 0.5 * frame.pixel)) * soft_step(heart_u - ku + 0.5 * radius, 0.03)
    calcium = max(0.0, old - 0.3) * 1.4
    return np.maximum(np.maximum(band, knob), descending), calcium * rim


def _border(knots: Array, values: Array, v: Array) -> Array:
    """A smooth curve through (knots, values), read at every pixel."""
    fine = np.linspace(-0.5, 1.2, 400)
    return np.interp(v, fine, PchipInterpolator(knots, values)(fine)).astype(np.float32)


def _airways(frame: Frame, exposure: Exposure) -> Array:
    """Trachea and main bronchi."""
    u, v = frame.u - 0.5 * exposure.turn, frame.v
    bend = u + 0.012 * bell(v - 0.27, 0.12)
    trachea = soft_step(0.027 - np.abs(bend), 0.014) * soft_step(0.35 - v, 0.03)
    t = np.clip((v - 0.33) / 0.1, 0, 1.4)
    bronchi = soft_step(0.016 - np.abs(np.abs(bend) - 0.012 - 0.085 * t), 0.012)
    bronchi = bronchi * soft_step(v - 0.33, 0.02) * soft_step(0.45 - v, 0.02)
    return 0.42 * trachea + 0.2 * bronchi


def _breasts(patient: Patient, exposure: Exposure, frame: Frame, rng: np.random.Generator) -> Array:
    """Breast shadows with a crisp lower fold; a faint pectoral shadow in men."""
    low = 0.72 + 0.12 * (patient.age - 20) / 70 + rng.uniform(-0.05, 0.05)
    total = np.zeros_like(frame.u)
    for side in (-1, 1):
        du = side * frame.u - (0.62 * patient.lung_width + rng.uniform(-0.02, 0.02))
        dv = frame.v - (low + rng.uniform(-0.015, 0.015))
        radius = 0.25 + 0.12 * patient.breast
        below = np.where(dv > 0, dv / (0.7 * radius), dv / (1.5 * radius))
        q = np.clip(1 - (du / radius) ** 2 - below**2, 0, 1)
        total += patient.breast * q**0.6 * np.where(dv > 0, 1, np.clip(1 + dv / (1.5 * radius), 0, 1) ** 1.3)
    if patient.sex == "M":
        fold = soft_step(0.5 - frame.v + 0.5 * np.abs(frame.u), 0.05) * soft_step(np.abs(frame.u) - 0.3, 0.1)
        total += 0.07 * fold
    return total


def _bowel_gas(patient: Patient, exposure: Exposure, frame: Frame, dome: Array, rng: np.random.Generator) -> Array:
    """Gastric bubble under the left dome (flat fluid level when standing) and specks of colonic gas."""
    centre = rng.uniform(0.42, 0.68) * patient.lung_width
    width, height = rng.uniform(0.06, 0.16), rng.uniform(0.025, 0.08)
    top = dome + 0.03
    du = (frame.u - centre) / width
    roof = frame.v - top - 0.02 * du**2
    floor = top + height * np.sqrt(np.clip(1 - du**2, 0, 1)) - frame.v
    if exposure.view == "PA":
        floor = np.minimum(floor, (exposure.breath + 0.03 + height * 0.7) - frame.v)
    bubble = soft_step(np.minimum(roof, floor), 0.015) * (np.abs(du) < 1.2)
    specks = np.clip(smooth_noise(rng, frame.u.shape, 14) - 1.4, 0, 1) * soft_step(frame.v - dome - 0.1, 0.05)
    return rng.uniform(0.15, 0.6) * bubble + 0.3 * specks * (frame.u > 0)
