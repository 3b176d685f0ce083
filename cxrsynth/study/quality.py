"""Figures of the synthetic images themselves: copies, likeness, traces of painting, and the asked finding's score."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrsynth.attention.task import GLoRITask
from cxrsynth.data.geometry import to_square
from cxrsynth.data.labels import find
from cxrsynth.data.manifest import Manifest, split_labels
from cxrsynth.data.reading import read_image
from cxrsynth.evaluation import edits
from cxrsynth.evaluation.effects import effects_table
from cxrsynth.evaluation.fidelity import RandomConvolutions, embed, similarity_within, with_floor
from cxrsynth.evaluation.judges import score_effects
from cxrsynth.evaluation.memorisation import Copied, compare_images
from cxrsynth.files import inside
from cxrsynth.study.material import Material
from cxrsynth.synthesis.task import load_attention

MOST = 200  # images of each kind that are looked at: enough for the tests, and minutes less
PAIRS = 6  # worst pairs that the page shows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Looked:
    """Images as squares, with what is known of them.

    Attributes:
        ids: Their ids.
        images: `[n, 1, S, S]`.
        patients: Patient of each; of a synthetic image its source's.
        findings: First finding that each is labelled with; empty = none.
    """

    ids: list[str]
    images: Tensor
    patients: list[str]
    findings: list[str]


def quality(material: Material, judge: Path | None) -> dict[str, Any]:
    """Memorisation, fidelity, traces of painting and effects of the first set of synthetic images.

    Args:
        material: Of the study.
        judge: Classifier of real images that scores the asked finding before and after, or None.
    """
    made = _look(material, material.synthetic(0), material.synthetic(0).table.image_id.tolist())
    training = _look(material, material.training, material.training.table.image_id.tolist(), most=10 * MOST)
    held_out = _look(material, material.archive, _ids(material, ("val", "test")))
    chosen = set(made.ids)
    records = [record for record in material.records if record["id"] in chosen]
    regions = _regions(material, records)
    order = [made.ids.index(record["id"]) for record in records]
    sources = _look(material, material.archive, [record["source_id"] for record in records], most=None)
    whole = made.images, training.images, held_out.images, made.patients, training.patients
    copied = {"whole images": compare_images(*whole, held_out_owners=held_out.patients)}
    if records:
        parts = made.images[order], training.images, held_out.images, sources.patients, training.patients, regions
        copied["painted parts"] = compare_images(*parts, held_out_owners=held_out.patients)
    return {
        "memorisation": {name: _copied(found) for name, found in copied.items()},
        "worst_pairs": _worst(copied, made, training, order, material),
        "fidelity": _fidelity(material, made, training, held_out),
        "edits": _edits(made, sources, order, regions, training) if records else None,
        "effects": _effects(material, judge),
    }


def _look(material: Material, manifest: Manifest, ids: Sequence[str], most: int | None = MOST) -> Looked:
    """Images of these ids in their order; at most `most`, evenly drawn, of those that can be read."""
    if most is not None and len(ids) > most:
        kept = np.random.default_rng([material.seed, 41]).permutation(len(ids))[:most]
        ids = [ids[i] for i in sorted(kept)]
    table = manifest.table.set_index("image_id")
    images = [to_square(read_image(manifest.path(image_id)), material.size) for image_id in ids]
    labels = [[find(label, material.findings) for label in split_labels(str(table.at[i, "labels"]))] for i in ids]
    first = [next((name for name in names if name), "") for names in labels]
    stacked = torch.stack(images) if images else torch.zeros(0, 1, material.size, material.size)
    return Looked(list(ids), stacked, [str(table.at[i, "patient_id"]) for i in ids], first)


def _ids(material: Material, splits: Sequence[str]) -> list[str]:
    ids = set(material.splits.image_id[material.splits.split.isin(splits)])
    return [image_id for image_id in material.archive.table.image_id if image_id in ids]


def _regions(material: Material, records: Sequence[dict[str, Any]]) -> Tensor:
    """Regions as squares, bool `[n, S, S]`."""
    assert material.run is not None or not records
    squares = [
        (to_square(read_image(inside(str(material.run), record["region"])), material.size)[0] > 0.5).numpy()
        for record in records
    ]
    return edits.squares_of(squares)


def _copied(found: Copied) -> dict[str, Any]:
    tested = found.p[~np.isnan(found.p)]
    return {"images": len(tested), "share": found.share, "low": found.low, "high": found.high,
            "by_chance": found.by_chance, "word": found.word, "memorised": found.memorised,
            "smallest_p": float(tested.min()) if len(tested) else None}  # fmt: skip


def _worst(
    copied: dict[str, Copied], made: Looked, training: Looked, order: Sequence[int], material: Material
) -> list[dict[str, Any]]:
    """The most suspicious pairs of synthetic and training image, by p; files for the page to show."""
    pairs = []
    for kind, found in copied.items():
        rows = [number for number in np.argsort(found.p, kind="stable")[:PAIRS] if not np.isnan(found.p[number])]
        for number in rows:
            image = made.ids[order[number] if kind == "painted parts" else number]
            near = training.ids[int(found.nearest[number])]
            pairs.append({"kind": kind, "image": image, "training_image": near, "p": float(found.p[number]),
                          "paths": [os.path.relpath(path, material.folder.resolve()) for path in
                                    (material.synthetic(0).path(image), material.archive.path(near))]})  # fmt: skip
    return pairs


def _fidelity(material: Material, made: Looked, training: Looked, held_out: Looked) -> list[dict[str, Any]]:
    """Distances to real images of the findings asked for, in two embeddings, and variety within each finding."""
    asked = sorted({finding for finding in made.findings if finding})
    wanted = [[i for i, finding in enumerate(looked.findings) if finding in asked] for looked in (training, held_out)]
    rows: list[dict[str, Any]] = []
    networks: dict[str, Any] = {"random convolutions (trained by nobody)": RandomConvolutions()}
    attention = None if material.run is None else material.run / "checkpoints" / "attention.ckpt"
    if attention is not None and attention.is_file():
        networks["the run's encoder"] = _encoder_features(load_attention(str(attention)))
    for name, network in networks.items():
        real, other = (embed(looked.images[keep], network) if keep else np.zeros((0, 1)) for looked, keep in
                       zip((training, held_out), wanted, strict=True))  # fmt: skip
        found = with_floor(real, other, embed(made.images, network)) if len(made.ids) else {}
        if found:
            rows.append({"embedding": name, **found})
    variety = []
    for finding in asked:
        both = [looked.images[[i for i, f in enumerate(looked.findings) if f == finding]] for looked in
                (made, training)]  # fmt: skip
        variety.append({"finding": finding, "made": similarity_within(both[0]), "real": similarity_within(both[1])})
    return [{"distances": rows, "variety": variety}] if rows or variety else []


def _encoder_features(task: GLoRITask) -> Any:
    size = task.hparams["image_size"]
    return lambda image: task.encoder(to_square(image, size), 1)[0][0].mean(1)


def _edits(made: Looked, sources: Looked, order: Sequence[int], regions: Tensor, training: Looked) -> dict[str, Any]:
    """Seams, tone, lungs and a detector."""
    painted = made.images[list(order)]
    before, after = (x[:, 0].double().numpy() for x in (sources.images, painted))
    masks = regions.numpy()
    seams = [edits.seam(a, b, m) for a, b, m in zip(before, after, masks, strict=True)]
    tones = [abs(edits.tone(a, b, m)) for a, b, m in zip(before, after, masks, strict=True)]
    dice = edits.anatomy_dice(sources.images, painted)
    network = RandomConvolutions()
    return {
        "images": len(painted),
        "unchanged": edits.unchanged(sources.images, painted),
        "seam": float(np.nanmedian(seams)),
        "tone": float(np.nanmedian(tones)),
        "lungs_dice": float(np.nanmean(dice)) if not np.isnan(dice).all() else None,
        "lungs_dice_lowest": float(np.nanmin(dice)) if not np.isnan(dice).all() else None,
        "detector": edits.detector(
            embed(training.images, network), embed(painted, network), training.patients, sources.patients
        ),
    }


def _effects(material: Material, judge: Path | None) -> list[dict[str, Any]]:
    """Does the asked finding's score rise, by the judges that saw no synthetic image?"""
    if judge is None or not judge.is_file() or not material.records or material.run is None:
        return []
    effects = score_effects(material.run, material.archive, judge, material.size)
    asked = effects[effects["scored"] == effects["finding"]]
    rows = effects_table(asked, draws=500).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]
