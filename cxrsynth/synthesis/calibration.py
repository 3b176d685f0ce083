"""The limits of the selection, measured on real images of training patients."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.anatomy import segment
from cxrsynth.attention.region import region_from_map
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.maps import MapStore
from cxrsynth.data.reading import READERS
from cxrsynth.data.squares import readable_square
from cxrsynth.errors import UserError
from cxrsynth.synthesis.lesions import Lesions
from cxrsynth.synthesis.measures import asked_gain, lungs_kept, off_target_drift, out_of_range, patch_of, seam
from cxrsynth.synthesis.scorer import Scorer

PATCH = 24  # side of a lesion's patch
BEYOND = 0.01  # share of any film that lies beyond its own range, as `out_of_range` counts it: less says nothing
FEW = 8  # findings with fewer pairs share the limit of all findings
QUERIES = 500  # lesions whose nearest neighbour among other patients is looked for


@dataclass(frozen=True)
class Limits:
    """What an image must keep to be accepted.

    Attributes:
        gain: What the rise of the asked finding must be above, in log odds, by finding.
        drift: Largest change of another finding, by finding asked for.
        seam: Largest step at the region's edge in parts of the source's own.
        out_of_range: Largest share of the region beyond the film's range; at least `BEYOND`.
        lungs: Smallest Dice of the lungs outside the region.
        duplicate: Largest correlation with a training lesion.
    """

    gain: dict[str, float]
    drift: dict[str, float]
    seam: float
    out_of_range: float
    lungs: float
    duplicate: float


class Pasted(TypedDict):
    """How real lesions of one finding did, pasted."""

    share: float
    pairs: int


@dataclass(frozen=True)
class Calibration:
    """What was measured on real images of training patients.

    Attributes:
        limits: What an image must keep.
        lesions: The patches of all training lesions.
        real_lesions: By finding, the share of real lesions that rise above the limit of the gain when pasted into a
            healthy film, and the number of such pairs. They are not registered to the film and pass no other check, so
            painted lesions may do better; but where few pass, look at the scorer and the maps before the painter.
    """

    limits: Limits
    lesions: Lesions
    real_lesions: dict[str, Pasted]


@dataclass(frozen=True)
class Lesion:
    """A finding on a training image, where its attention map points."""

    image_id: str
    patient: str
    finding: str
    image: Tensor
    region: Tensor


def calibrate(
    manifest: Manifest,
    splits: pd.DataFrame,
    maps: str | Path,
    scorer: Scorer,
    *,
    size: int,
    quantile: float,
    chance: float,
    pairs: int,
    seed: int,
) -> Calibration:
    """Measure real pairs as if they were made: a healthy film as the source, an ill patient's as the result.

    An ill film is compared with a healthy one of the same site and view at the place of its lesion. What such real
    pairs show, but for their worst `quantile`, a painted image may show too. Three limits have pairs of their own. The
    gain must be above what all but `chance` of healthy films gain when another healthy patient's tissue is put where
    a lesion would be: so much rises when something changes there, whatever it is. Lungs are compared with those of
    the same healthy film moved and darkened a little; lesions with the nearest lesion of another patient.

    Args:
        manifest: The archive.
        splits: `image_id, patient_id, split`; training patients alone are looked at.
        maps: File of attention maps (see `cxrsynth.attention.maps.collect_maps`).
        scorer: The scorer.
        size: Side of the squares that are measured.
        quantile: Share of real images that each limit would refuse.
        chance: Share of healthy tissue that the limit of the gain would accept.
        pairs: Pairs measured for each finding.
        seed: Chooses the pairs.

    Raises:
        UserError: The maps cannot be used, or there is no healthy training image.
    """
    training = splits[splits["split"] == "train"]
    patients = dict(zip(training["image_id"], training["patient_id"].astype(str), strict=True))
    table = manifest.table.assign(healthy=manifest.healthy)
    healthy = table[table["healthy"] & table["image_id"].isin(patients)].sort_values("image_id")
    if healthy.empty:
        raise UserError("no training image is healthy; a selection needs some to compare with")
    targets = pd.DataFrame(manifest.targets(scorer.findings).numpy() != 0, index=table["image_id"])
    places = table.set_index("image_id")[["site", "view"]]
    rng = np.random.default_rng(seed)

    patches, owners = [], []
    measured: dict[str, list[dict[str, float]]] = {finding: [] for finding in scorer.findings}
    lungs: list[float] = []
    for lesion in _lesions(manifest, patients, Path(maps), scorer.findings, size, rng):
        patches.append(patch_of(lesion.image, lesion.region, PATCH).numpy().astype(np.float16))
        owners.append((lesion.image_id, lesion.patient))
        if len(measured[lesion.finding]) >= pairs:
            continue
        near = healthy[(healthy[["site", "view"]] == places.loc[lesion.image_id]).all(axis=1)]
        near = healthy if near.empty else near
        drawn = [near["image_id"].iloc[rng.integers(len(near))] for _ in range(2)]
        source, other = (readable_square(manifest, image_id, size) for image_id in drawn)
        if source is None or other is None:
            continue
        before, after = scorer.pair(source, lesion.image)
        asked = [scorer.findings.index(lesion.finding)]
        present = np.flatnonzero(targets.loc[lesion.image_id]).tolist()
        healthy_there = _other_tissue(source, other, lesion.region)
        ill_there = _other_tissue(source, lesion.image, lesion.region, _around(lesion.region))
        measured[lesion.finding].append(
            {
                "gain": asked_gain(*scorer.pair(source, healthy_there), asked),
                "lesion": asked_gain(*scorer.pair(source, ill_there), asked),
                "drift": off_target_drift(before, after, [*asked, *present]),
                "seam": seam(lesion.image, source, lesion.region),
                "out_of_range": out_of_range(lesion.image, lesion.region),
            }
        )
        if len(lungs) < pairs:
            lungs.append(_same_film_again(source, lesion.region))
    if not patches:
        raise UserError(f"{maps} has no map of a training image with {', '.join(scorer.findings)}; collect them again")
    found = Lesions(np.stack(patches), *(np.array(column, str) for column in zip(*owners, strict=True)))
    limits = _limits(measured, lungs, _likenesses(found, rng), quantile, chance)
    real_lesions: dict[str, Pasted] = {}
    for finding, rows in measured.items():
        if rows:
            share = float(np.mean([row["lesion"] > limits.gain[finding] for row in rows]))
            real_lesions[finding] = {"share": round(share, 4), "pairs": len(rows)}
    return Calibration(limits, found, real_lesions)


def _limits(
    measured: dict[str, list[dict[str, float]]],
    lungs: list[float],
    likenesses: list[float],
    quantile: float,
    chance: float,
) -> Limits:
    every = [row for rows in measured.values() for row in rows]

    def limit(rows: Iterable[dict[str, float]], name: str, share: float) -> float:
        return round(float(np.quantile([row[name] for row in rows], share)), 4)

    by_finding = {finding: rows if len(rows) >= FEW else every for finding, rows in measured.items()}
    return Limits(
        gain={f: max(limit(rows, "gain", 1 - chance), 0.0) for f, rows in by_finding.items()},
        drift={f: limit(rows, "drift", 1 - quantile) for f, rows in by_finding.items()},
        seam=limit(every, "seam", 1 - quantile),
        out_of_range=max(limit(every, "out_of_range", 1 - quantile), BEYOND),
        lungs=round(float(np.quantile(lungs, quantile)), 4),
        duplicate=round(float(np.quantile(likenesses, 1 - quantile)), 4),
    )


def _lesions(
    manifest: Manifest, patients: dict[str, str], maps: Path, findings: list[str], size: int, rng: np.random.Generator
) -> Iterable[Lesion]:
    """Every mapped finding of a training patient, in an order that the seed decides; unreadable films are left out."""
    store = MapStore(maps)
    known = set(manifest.table["image_id"])
    rows = [(i, f) for i, f in sorted(store.index) if i in patients and i in known and f in findings]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(rows), 64):  # so many films at a time are in memory
            part = rows[start : start + 64]
            films = readers.map(lambda row: readable_square(manifest, row[0], size), part)
            for (image_id, finding), image in zip(part, films, strict=True):
                if image is None:
                    continue
                map = store.batch([image_id], [finding], size)
                region = region_from_map(map)[0] > 0
                if region.any():
                    yield Lesion(image_id, patients[image_id], finding, image, region)


def _other_tissue(film: Tensor, other: Tensor, region: Tensor, alike: Tensor | None = None) -> Tensor:
    """A film with another's content in the region, as bright as the film on average over `alike` (the region)."""
    alike = region if alike is None else alike
    return torch.where(region, other + (film[alike].mean() - other[alike].mean()), film).clamp(0, 1)


def _around(region: Tensor) -> Tensor:
    """A ring around a region, a 32nd of the square wide; the region itself where it leaves no room."""
    width = region.shape[-1] // 32
    ring = (F.max_pool2d(region[None].float(), 2 * width + 1, 1, width)[0] > 0) & ~region
    return ring if ring.any() else region


def _same_film_again(film: Tensor, region: Tensor) -> float:
    """Lungs kept by the segmenter when a film is moved by a 64th of its side and darkened a little."""
    step, size = film.shape[-1] // 64, film.shape[-1]
    moved = F.pad(film[None], (step, 0, step, 0), mode="replicate")[..., :size, :size] ** 1.1
    first, second = segment(film[None])[0], segment(moved)[0]
    rest = slice(0, size - step)
    return lungs_kept(first[:, rest, rest], second[:, step:, step:], region[:, rest, rest])


def _likenesses(lesions: Lesions, rng: np.random.Generator) -> list[float]:
    """Correlation of some lesions with the nearest one of another patient."""
    chosen = rng.permutation(len(lesions))[:QUERIES]
    return [lesions.nearest(lesions.patches[i], str(lesions.patients[i]))[0] for i in chosen]
