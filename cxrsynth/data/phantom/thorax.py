"""Soft tissue and air: body, lungs, diaphragm, heart, great vessels, airways, breasts, stomach."""

from dataclasses import dataclass

import numpy as np

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
        dome: Height of the diaphragm at each pixel's column.
    """

    attenuation: Array
    lungs: Array
    heart: Array
    cage: Array
    dome: Array


def render_thorax(patient: Patient, exposure: Exposure, frame: Frame, rng: np.random.Generator) -> Thorax:
    """Sum of the soft tissues along each ray."""
    u, v = frame.u, frame.v
    edge = max(0.008, 0.8 * frame.pixel)
    au = np.abs(u)
    cage = _cage(patient, v)
    dome = _dome(patient, exposure, u, cage, rng)
    mu = _body(patient, exposure, frame, cage)

    field = soft_step(cage - au, edge) * soft_step(dome - v, edge)
    field *= soft_step(au - 0.055 - 0.35 * np.clip(0.16 - v, 0, 1) ** 1.2, 2 * edge)
    recess = soft_step(cage - 0.03 - au, 0.03) * soft_step(dome + 0.1 - v, 0.07) * soft_step(au - 0.1, 0.05)
    depth = np.clip((cage - au) * 4.5, 0, 1) ** 0.4 * (0.72 + 0.28 * soft_step(v - 0.18, 0.2))
    mu = mu - (1.02 * field * depth + 0.16 * recess * (1 - field) * (v > 0.4))

    heart = _heart(patient, exposure, frame)
    vessels, knob_rim = _great_vessels(patient, exposure, frame)
    silhouette = np.maximum(heart, vessels)
    mu = mu + 0.86 * field * depth * np.maximum(0.95 * heart, 0.8 * vessels) + 0.3 * knob_rim
    mu = mu + 0.16 * heart
    mu = mu - _airways(frame, exposure)
    mu = mu + _breasts(patient, exposure, frame, rng)
    mu = mu - _bowel_gas(patient, exposure, frame, dome, rng)
    visible = field * (1 - silhouette)
    lungs = np.stack([visible * (u < 0), visible * (u >= 0)]).astype(np.float32)
    return Thorax(mu.astype(np.float32), lungs, heart, cage, dome)


def _cage(patient: Patient, v: Array) -> Array:
    """Half width of the rib cage at each height: an apex like a pointed arch, nearly straight sides."""
    t = np.clip(v / 0.85, 0, 1)
    arch = (1 - (1 - t) ** patient.shape) ** 0.56
    return patient.lung_width * arch * (1 - 0.05 * np.clip(v - 0.85, 0, 1) / 0.15)


def _dome(patient: Patient, exposure: Exposure, u: Array, cage: Array, rng: np.random.Generator) -> Array:
    """Height of each diaphragm dome; it falls to the costophrenic angle."""
    left = soft_step(u, 0.05)
    centre = 0.5 * patient.lung_width
    droop = np.clip(np.abs(np.abs(u) - centre * 0.85) / (patient.lung_width - 0.85 * centre), 0, 1.6)
    height = rng.uniform(0.13, 0.19)
    side = np.abs(u) > centre * 0.85
    fall = np.where(side, height * droop**2.3, 0.05 * droop**2)
    lobes = 0.006 * np.sin(u * rng.uniform(14, 20) + rng.uniform(0, 6))
    return exposure.breath - patient.dome_gap * (1 - left) * 0.7 + 0.012 * left + fall + lobes


def _body(patient: Patient, exposure: Exposure, frame: Frame, cage: Array) -> Array:
    """Neck, shoulders, arms and torso without lungs."""
    u, v, au = frame.u, frame.v, np.abs(frame.u)
    wall = 0.07 + 0.13 * patient.fat
    width = patient.lung_width + wall + 0.05 * soft_step(v - 0.8, 0.4) * patient.fat
    axilla = 0.05 * bell(v - 0.28, 0.12)
    torso_edge = width + axilla + 0.02 * np.clip(0.5 - v, 0, 1)
    shoulder = -0.2 + 0.62 * np.clip(au - 0.17, 0, None) ** (1.15 + 0.2 * patient.fat) - 0.05 * patient.fat
    neck = 0.15 + 0.05 * patient.fat + (0.015 if patient.sex == "M" else 0)
    top = soft_step(v - shoulder, 0.03)
    column = soft_step(neck + 0.3 * np.clip(v + 0.22, 0, 1) - au, 0.03)
    torso = soft_step(torso_edge - au, 0.015) * top
    thickness = np.sqrt(np.clip(1.02 - (au / (torso_edge + 0.02)) ** 2.6, 0, 1))
    mu = np.maximum(
        torso * (0.5 + (1.45 + 0.25 * patient.fat) * thickness),
        column * (0.5 + 1.2 * np.sqrt(np.clip(1 - (au / (neck + 0.12)) ** 2, 0, 1))),
    )
    # Arms: down beside the body in bed, lifted away in a standing film.
    start, lean = (0.86, 0.1) if exposure.view == "AP" else (0.8, 0.42)
    reach = start + lean * np.clip(v, -0.3, 2) - wall * 0.1
    arm_width = 0.12 + 0.05 * patient.fat
    arm = np.clip(1 - ((au - reach) / arm_width) ** 2, 0, 1) ** 0.5 * top * soft_step(v + 0.05, 0.2)
    shoulder_cap = np.clip(1 - ((au - 0.72) / 0.3) ** 2 - ((v - 0.12) / 0.3) ** 2, 0, 1) ** 0.5 * top
    mu = np.maximum(mu, np.maximum(0.4 * (arm > 0) + 0.9 * arm, 1.55 * shoulder_cap))
    belly = soft_step(v - 0.85, 0.3)
    return mu + 0.12 * belly * torso


def _heart(patient: Patient, exposure: Exposure, frame: Frame) -> Array:
    """Silhouette of the heart: a right atrium and an oblique, larger left ventricle."""
    ratio = patient.heart_ratio + (0.035 if exposure.view == "AP" else 0.0)
    width = 2 * ratio * patient.lung_width
    u = frame.u - 3 * exposure.turn
    base = exposure.breath
    edge = max(0.012, frame.pixel)
    left, right = 0.66 * width, 0.34 * width
    slant = 0.55 + 0.25 * (base - 0.8)
    # Left ventricle: an ellipse leaning towards the apex of the heart.
    du, dv = u - 0.33 * left, frame.v - (base - 0.2)
    a, b = 0.85 * du + slant * dv, -slant * du * 0.62 + 0.85 * dv
    ventricle = 1 - (a / (0.80 * left)) ** 2 - (b / 0.215) ** 2
    du, dv = u + 0.25 * right, frame.v - (base - 0.19)
    atrium = 1 - (du / (0.78 * right)) ** 2 - (dv / 0.21) ** 2
    waist = 1 - ((u - 0.02) / (0.30 * width)) ** 2 - ((frame.v - (base - 0.33)) / 0.17) ** 2
    lobes = np.maximum(np.maximum(ventricle, atrium), waist)
    return soft_step(lobes, 4.5 * edge) * soft_step(base + 0.16 - frame.v, 0.05)


def _great_vessels(patient: Patient, exposure: Exposure, frame: Frame) -> tuple[Array, Array]:
    """Silhouette of the upper mediastinum, and the calcified rim of the aortic knob."""
    u, v, old = frame.u - 1.5 * exposure.turn, frame.v, patient.unfolding
    edge = max(0.012, frame.pixel)
    wide = 1.15 if exposure.view == "AP" else 1.0
    right = wide * (0.085 + 0.02 * bell(v - 0.2, 0.12) + 0.02 * old)
    left = wide * (0.07 + 0.015 * old)
    band = soft_step(u + right, edge) * soft_step(left - u, edge) * soft_step(v + 0.12, 0.1)
    radius = wide * (0.05 + 0.034 * old)
    ku, kv = 0.072 + 0.022 * old, 0.27 - 0.03 * old
    distance = np.hypot(u - ku, (v - kv) * 0.9)
    knob = soft_step(radius - distance, edge)
    artery = soft_step(1 - np.hypot((u - 0.075) / 0.062, (v - 0.42) / 0.075), 0.18)
    # The descending aorta leaves the spine as it unfolds with age.
    lateral = 0.055 + 0.055 * old * bell(v - 0.55, 0.2) + 0.02 * old
    descending = 0.75 * soft_step(lateral + 0.03 - u, edge) * soft_step(u, edge) * soft_step(v - kv, 0.03)
    rim = bell(distance - 0.93 * radius, max(0.007, 0.5 * frame.pixel)) * soft_step(u - ku + 0.5 * radius, 0.03)
    calcium = max(0.0, old - 0.3) * 1.4
    return np.maximum(np.maximum(band, knob), np.maximum(0.9 * artery, descending)), calcium * rim


def _airways(frame: Frame, exposure: Exposure) -> Array:
    """Trachea and main bronchi."""
    u, v = frame.u - 0.5 * exposure.turn, frame.v
    bend = u + 0.012 * bell(v - 0.27, 0.12)
    trachea = soft_step(0.027 - np.abs(bend), 0.014) * soft_step(0.35 - v, 0.03)
    t = np.clip((v - 0.33) / 0.1, 0, 1.4)
    bronchi = soft_step(0.016 - np.abs(np.abs(bend) - 0.012 - 0.085 * t), 0.012)
    bronchi = bronchi * soft_step(v - 0.33, 0.02) * soft_step(0.45 - v, 0.02)
    return 0.32 * trachea + 0.18 * bronchi


def _breasts(patient: Patient, exposure: Exposure, frame: Frame, rng: np.random.Generator) -> Array:
    """Breast shadows with a crisp lower fold; a faint pectoral shadow in men."""
    low = 0.72 + 0.12 * (patient.age - 20) / 70 + rng.uniform(-0.05, 0.05)
    total = np.zeros_like(frame.u)
    for side in (-1, 1):
        du = side * frame.u - (0.62 * patient.lung_width + rng.uniform(-0.02, 0.02))
        dv = frame.v - (low + rng.uniform(-0.015, 0.015))
        radius = 0.25 + 0.12 * patient.breast
        below = np.where(dv > 0, dv / (0.55 * radius), dv / (1.5 * radius))
        q = np.clip(1 - (du / radius) ** 2 - below**2, 0, 1)
        total += patient.breast * q**0.45 * np.where(dv > 0, 1, np.clip(1 + dv / (1.5 * radius), 0, 1) ** 0.7)
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
