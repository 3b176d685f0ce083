"""One simulated chest film with its ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrsynth.data.phantom.anatomy import Anatomy
from cxrsynth.data.phantom.bones import render_bones
from cxrsynth.data.phantom.change import apply_change
from cxrsynth.data.phantom.distractors import draw_labels, render_distractors
from cxrsynth.data.phantom.film import Film, expose
from cxrsynth.data.phantom.lesions import draw_change
from cxrsynth.data.phantom.patient import Exposure, Patient
from cxrsynth.data.phantom.shapes import Array, Frame
from cxrsynth.data.phantom.thorax import render_thorax
from cxrsynth.data.phantom.vessels import render_vessels


@dataclass(frozen=True)
class Lesion:
    """A finding on a film: its name, severity in [0, 1], place in words and mask `[H, W]` bool."""

    finding: str
    severity: float
    place: str
    mask: Array

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x_min, y_min, x_max, y_max in pixels; the maximum is the last pixel plus 1."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class Phantom:
    """A film `[H, W]` float32 in [0, 1] and all that is known of it; `anatomy` is that of the film without lesions."""

    image: Array
    lesions: tuple[Lesion, ...]
    anatomy: Anatomy
    patient: Patient
    exposure: Exposure


def render(
    patient: Patient, exposure: Exposure, findings: Sequence[tuple[str, float]] = (), size: int = 128
) -> Phantom:
    """Simulate a film.

    The same patient and exposure with other findings give the same film but for the lesions: body, noise and markers
    have seeds of their own.

    Args:
        patient: Who.
        exposure: How.
        findings: (finding, severity) pairs; severity in [0, 1].
        size: Pixels along a side, 64 to 1024.
    """
    frame = Frame.of(exposure, size)
    body = np.random.default_rng([patient.seed, 3])
    thorax = render_thorax(patient, exposure, frame, body)
    attenuation = thorax.attenuation + render_bones(patient, exposure, frame, thorax, body)
    attenuation = attenuation + render_vessels(patient, frame, thorax.lungs, np.random.default_rng([patient.seed, 4]))
    attenuation = attenuation + render_distractors(patient, frame, thorax, np.random.default_rng([exposure.seed, 5]))
    anatomy = Anatomy.of(thorax.lungs, thorax.heart, Film.of(exposure).grey(attenuation))
    tissue = attenuation + 0.85 * thorax.air
    lesions = []
    for number, (finding, severity) in enumerate(findings):
        change = draw_change(finding, severity, np.random.default_rng([exposure.seed, 6, number]), anatomy)
        attenuation = apply_change(attenuation, change, tissue)
        if change.mask.any():
            lesions.append(Lesion(finding, severity, change.place, change.mask))
    image = expose(attenuation, exposure, np.random.default_rng([exposure.seed, 7]))
    image = draw_labels(image, patient, exposure, np.random.default_rng([exposure.seed, 8]))
    return Phantom(image, tuple(lesions), anatomy, patient, exposure)
