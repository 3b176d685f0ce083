"""Who is on the film, and how it was taken: every number the renderer needs, drawn from a seed."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Patient:
    """One body. Lengths are in lung heights (apex to base = 1), `u` = lateral, `v` = down.

    Attributes:
        sex: "F" or "M".
        age: Years, 20 to 90.
        lung_width: Half width of the rib cage.
        heart_ratio: Heart width / cage width in a PA film (normal: below 0.5).
        fat: 0 slim to 1 heavy.
        breast: Breast thickness, 0 in most men.
        rib_spacing: Distance of neighbouring ribs.
        rib_tilt: How much lower than its back the side of a rib lies.
        bone: Bone density; falls with age.
        unfolding: 0 young aorta to 1 unfolded aorta with a large, calcified knob.
        vessels: Strength of the lung markings.
        dome_gap: How much higher the right dome stands than the left.
        shape: Exponent of the apex's outline.
        seed: Seed of all that has no name here (vessel tree, rib irregularities).
    """

    sex: str
    age: int
    lung_width: float
    heart_ratio: float
    fat: float
    breast: float
    rib_spacing: float
    rib_tilt: float
    bone: float
    unfolding: float
    vessels: float
    dome_gap: float
    shape: float
    seed: int

    @classmethod
    def draw(cls, seed: int) -> "Patient":
        """The patient of this seed."""
        rng = np.random.default_rng([seed, 1])
        sex = "F" if rng.random() < 0.5 else "M"
        age = int(rng.integers(20, 91))
        old = (age - 20) / 70
        fat = float(rng.beta(2, 2.5))
        breast = rng.uniform(0.26, 0.5) + 0.15 * fat if sex == "F" else max(0.0, 0.06 * (fat - 0.6))
        return cls(
            sex=sex,
            age=age,
            lung_width=rng.uniform(0.44, 0.53) + (0.03 if sex == "M" else 0.0) + 0.03 * old,
            heart_ratio=rng.uniform(0.39, 0.465) + 0.02 * old,
            fat=fat,
            breast=float(breast),
            rib_spacing=rng.uniform(0.088, 0.108) - 0.008 * old,
            rib_tilt=rng.uniform(0.1, 0.2) + 0.03 * old,
            bone=(1.15 if sex == "M" else 1.0) * rng.uniform(0.85, 1.15) * (1.1 - 0.45 * old),
            unfolding=float(np.clip(old + rng.normal(0, 0.09), 0, 1)) ** 1.3,
            vessels=rng.uniform(0.75, 1.25) * (0.85 + 0.3 * old),
            dome_gap=rng.uniform(0.0, 0.06),
            shape=rng.uniform(2.1, 2.9),
            seed=seed,
        )


@dataclass(frozen=True)
class Exposure:
    """One film of a patient: view, breath, position, beam and detector.

    Attributes:
        view: "PA" (standing, arms away) or "AP" (in bed: larger heart, scapulae over the lungs, smaller breath).
        breath: Depth of inspiration; the domes stand at `v = breath`.
        scale: Lung height as a share of the film.
        centre: Where the lungs' centre lies on the film (x, y), shares of the film.
        tilt: Rotation in the plane of the film, radians.
        turn: Rotation about the body's axis: moves heart, sternum and clavicles against the spine.
        gain: Slope of the film curve.
        level: Attenuation that is shown as middle grey.
        black: Grey of air.
        white: Grey of what lets nothing through.
        blur: Sigma of the detector's blur as a share of the film.
        noise: Quantum noise in attenuation units at 128 pixels.
        seed: Seed of noise, markers and tubes.
    """

    view: str
    breath: float
    scale: float
    centre: tuple[float, float]
    tilt: float
    turn: float
    gain: float
    level: float
    black: float
    white: float
    blur: float
    noise: float
    seed: int

    @classmethod
    def draw(cls, seed: int) -> "Exposure":
        """The film of this seed."""
        rng = np.random.default_rng([seed, 2])
        view = "AP" if rng.random() < 0.4 else "PA"
        bed = view == "AP"
        return cls(
            view=view,
            breath=rng.uniform(0.8, 0.9) if bed else rng.uniform(0.86, 0.96),
            scale=rng.uniform(0.64, 0.8),
            centre=(0.5 + rng.normal(0, 0.02), 0.5 + rng.normal(0, 0.025)),
            tilt=float(np.clip(rng.normal(0, 0.03), -0.07, 0.07)),
            turn=float(rng.normal(0, 0.012)),
            gain=rng.uniform(1.95, 2.8) * (0.9 if bed else 1.0),
            level=rng.uniform(1.12, 1.38),
            black=rng.uniform(0.0, 0.06),
            white=rng.uniform(0.9, 1.0),
            blur=rng.uniform(0.0045, 0.0065) if bed else rng.uniform(0.003, 0.0045),
            noise=rng.uniform(0.006, 0.016) * (1.2 if bed else 1.0),
            seed=seed,
        )
