"""What a study works on: an archive, its split, synthetic images; and the refusals that keep it honest."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrsynth.data.labels import find
from cxrsynth.data.manifest import Manifest, split_labels
from cxrsynth.data.split import read_splits
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file

OWN_IMAGES = ("synthetic_all.csv", "synthetic.csv")  # of a run: all that were made, those that its scorer accepted


@dataclass(frozen=True)
class Material:
    """What the arms are made of. Only training patients enter what they make.

    Attributes:
        folder: The study's folder.
        manifest_path: The archive's table.
        splits_path: Its split by patient.
        findings: What is classified.
        image_manifests: Synthetic images, one manifest a seed of the generator; training number k uses number k modulo
            their count.
        run: The run folder that made them, or None (another generator).
        size: Side of the squares that classifiers see.
        seed: Of what is drawn at random here.
        limit: Real training images kept of each finding; None = all.
        views: Keep only images of these views.
        sites: Keep only images of these sites.
        scorer: Checkpoint that filters images, or None.
        keep: Share of the images that it keeps.
        phantom: How the archive was simulated, or None.
    """

    folder: Path
    manifest_path: Path
    splits_path: Path
    findings: list[str]
    image_manifests: list[Path]
    run: Path | None = None
    size: int = 96
    seed: int = 0
    limit: int | None = None
    views: list[str] | None = None
    sites: list[str] | None = None
    scorer: Path | None = None
    keep: float = 0.5
    phantom: dict[str, Any] | None = None
    _loaded: dict[Path, Manifest] = field(default_factory=dict, compare=False, repr=False)
    _digests: dict[Path, str] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def archive(self) -> Manifest:
        """All real images of the chosen views and sites."""
        return Manifest.load(self.manifest_path).select(views=self.views, sites=self.sites)

    @cached_property
    def splits(self) -> pd.DataFrame:
        """`image_id, patient_id, split`."""
        return read_splits(self.splits_path)

    @cached_property
    def training(self) -> Manifest:
        """The real training images, before any is left out."""
        return self.of("train")

    def of(self, split: str) -> Manifest:
        """The real images of a split."""
        return self.archive.select(ids=set(self.splits.image_id[self.splits.split == split]))

    @cached_property
    def _kept(self) -> set[str]:
        """Training images in use: all without a finding, and of each finding as many as `limit` says."""
        ids = self.training.table.image_id
        has = self.training.targets(self.findings).numpy() == 1
        if self.limit is None:
            return set(ids)
        # ordered by a hash, so that ten positives are the first ten of fifty
        order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(f"{self.seed}:{ids[i]}".encode()).digest())
        counts = np.zeros(len(self.findings), int)
        kept = {ids[i] for i in order if not has[i].any()}
        for i in order:
            if has[i].any() and (counts[has[i]] < self.limit).all():
                kept.add(ids[i])
                counts += has[i]
        return kept

    @property
    def training_images(self) -> int:
        """Number of real training images in use."""
        return len(self._kept)

    def left_out(self) -> dict[str, int]:
        """Copies (0) of the training images that are not in use."""
        return {image_id: 0 for image_id in self.training.table.image_id if image_id not in self._kept}

    def positives(self, finding: str) -> list[str]:
        """Real training images in use that have a finding."""
        has = self.training.targets([finding])[:, 0].numpy() == 1
        return [i for i in self.training.table.image_id[has] if i in self._kept]

    def images(self, seed: int) -> Path:
        """The manifest of synthetic images for the training of a seed."""
        return self.image_manifests[seed % len(self.image_manifests)]

    def synthetic(self, seed: int) -> Manifest:
        """The synthetic images for the training of a seed."""
        path = self.images(seed)
        if path not in self._loaded:
            self._loaded[path] = Manifest.load(path)
        return self._loaded[path]

    def asked(self, seed: int) -> dict[str, int]:
        """How many synthetic images show each finding."""
        counts = dict.fromkeys(self.findings, 0)
        for labels in self.synthetic(seed).table.labels:
            for finding in filter(None, (find(label, self.findings) for label in split_labels(labels))):
                counts[finding] += 1
        return counts

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Provenance of the run's images; empty for another generator's."""
        path = None if self.run is None else self.run / "provenance.jsonl"
        own = path is not None and self.images(0) in [path.with_name(name) for name in OWN_IMAGES]
        if path is None or not path.is_file() or not own:
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    @property
    def selected(self) -> Path | None:
        """The images that the run itself accepted by its scorer, if all of its images are studied."""
        if self.run is None or self.scorer != self.run / "checkpoints" / "scorer.ckpt":
            return None
        accepted = self.run / OWN_IMAGES[1]
        return accepted if accepted.is_file() and self.images(0) == self.run / OWN_IMAGES[0] else None

    def has(self) -> set[str]:
        """Which needs of arms (`cxrsynth.study.arms.Arm.needs`) are met."""
        inpainter = self.run is not None and (self.run / "checkpoints" / "inpainting.ckpt").is_file()
        met = {
            "images": bool(self.image_manifests),
            "regions": bool(self.records),
            "inpainter": inpainter,
            "scorer": self.scorer is not None and self.scorer.is_file(),
            "phantom": self.phantom is not None,
        }
        return {name for name, there in met.items() if there}

    def limited(self, limit: int | None) -> "Material":
        """The same with fewer real positives."""
        return replace(self, limit=limit)

    def digest(self, manifest: Path) -> str:
        """SHA-256 of a manifest and of every image it names: other pixels under old names are other images."""
        if manifest not in self._digests:
            images = Manifest.load(manifest)
            parts = [sha256_file(images.path(i)) for i in images.table.image_id if images.path(i).is_file()]
            self._digests[manifest] = hashlib.sha256("".join([sha256_file(manifest), *parts]).encode()).hexdigest()
        return self._digests[manifest]

    def fingerprint(self) -> str:
        """SHA-256 of the tables that every arm depends on."""
        parts = [sha256_file(path) for path in (self.manifest_path, self.splits_path)]
        settings = [self.findings, self.size, self.seed, self.limit, self.views, self.sites]
        return hashlib.sha256(json.dumps([parts, settings]).encode()).hexdigest()


def refuse_leaks(material: Material, external: Path | None = None) -> None:
    """Refuse a study whose result could not be believed.

    Raises:
        UserError: A patient is in two splits; a synthetic image, or a copy of one, is in validation, test or the
            external archive; an image was made from a patient who is not a training patient.
    """
    splits = material.splits  # reading it refuses a patient in two splits
    held_out = splits[splits.split.isin(["val", "test"])]
    judged = material.archive.select(ids=set(held_out.image_id))
    for column in ("source_id", "exemplar_id"):
        made = judged.table[column].fillna("").astype(str) if column in judged.table else pd.Series(dtype=str)
        if (made != "").any():
            raise _synthetic_outside_training(str(judged.table.image_id[made != ""].iloc[0]))
    patients = set(held_out.patient_id)
    hashes: dict[str, str] = {}
    archives = [judged] if external is None else [judged, Manifest.load(external)]
    for manifest in archives if material.image_manifests else ():
        hashes |= {sha256_file(manifest.path(i)): i for i in manifest.table.image_id if manifest.path(i).is_file()}
    names = {i for manifest in archives for i in manifest.table.image_id}
    for seed in range(len(material.image_manifests)):
        images = material.synthetic(seed)
        _refuse_foreign_patients(images.table, patients, set(held_out.image_id))
        for image_id in images.table.image_id:
            path = images.path(image_id)
            if image_id in names or (path.is_file() and sha256_file(path) in hashes):
                raise _synthetic_outside_training(image_id)


def refuse_same_judge(scorer: Path | None, judge: Path | None) -> None:
    """Refuse a filter that is also the judge: images chosen to please it would please it.

    Raises:
        UserError: Both are the same file, or have the same content.
    """
    if scorer is None or judge is None or not (scorer.is_file() and judge.is_file()):
        return
    if scorer.resolve() == judge.resolve() or sha256_file(scorer) == sha256_file(judge):
        raise UserError(
            f"scorer {scorer.name} is also the judge; filter the images with another network than the one that scores "
            "them, for example attention.ckpt"
        )


def open_images(paths: Sequence[str] | None, run: Path | None) -> list[Path]:
    """Manifests of synthetic images: those given, else the run's.

    Raises:
        UserError: One does not exist.
    """
    chosen = [Path(path) for path in paths] if paths else []
    if not chosen and run is not None:
        chosen = [run / name for name in OWN_IMAGES if (run / name).is_file()][:1]
    for path in chosen:
        if not path.is_file():
            raise UserError(f"images {path} does not exist; give the manifest of synthetic images")
    return chosen


def _refuse_foreign_patients(table: pd.DataFrame, patients: set[str], images: set[str]) -> None:
    for column, forbidden in (("patient_id", patients), ("source_id", images), ("exemplar_id", images)):
        if column in table and (leaks := sorted(set(table[column]) & forbidden - {""})):
            raise UserError(
                f"images: {column} {leaks[0]!r} belongs to validation or test ({len(leaks)} do); "
                "judge only images that were made from training patients"
            )


def _synthetic_outside_training(image_id: str) -> UserError:
    return UserError(
        f"synthetic image {image_id!r}, or a copy of it, is in validation, test or the external archive; "
        "keep synthetic images in training only"
    )
