"""Which of the images made are good enough to train with; every refusal has a reason and a number."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cxrsynth.anatomy import segment
from cxrsynth.anatomy.segmenter import SHIPPED
from cxrsynth.data.geometry import to_square
from cxrsynth.data.manifest import Manifest, split_labels
from cxrsynth.data.reading import read_image
from cxrsynth.data.split import read_splits
from cxrsynth.errors import UserError
from cxrsynth.files import inside, sha256_file, write_json, write_text
from cxrsynth.synthesis.calibration import BEYOND, PATCH, Limits, calibrate
from cxrsynth.synthesis.lesions import Lesions
from cxrsynth.synthesis.measures import asked_gain, lungs_kept, off_target_drift, out_of_range, patch_of, seam
from cxrsynth.synthesis.scorer import load_scorer

VERDICTS = "selection"
LIMITS_FILE = "selection.json"
PASTED = "real_lesions"  # in the file of limits; those of older versions lack it
LESIONS_FILE = "stages/lesions.npz"
CHECKS = ("gain", "drift", "lungs", "seam", "out_of_range", "duplicate")
AT_LEAST = ("gain", "lungs")  # the others are at most


@dataclass(frozen=True)
class Selection:
    """How images are selected. Each image is judged from its files alone, so order, batches and ranks do not matter.

    Attributes:
        scorer: Checkpoint of a classifier that saw real training images only and judges nothing else.
        splits: The run's `splits.csv`.
        maps: Attention maps of the training patients (`stages/attention_maps.npz`).
        size: Side of the squares that are measured, pixels.
        quantile: Share of real images that each limit would refuse.
        chance: Share of healthy tissue that the limit of the asked finding's gain would accept, though that limit is
            never below 0. A scorer that hardly knows the findings accepts about this share of anything.
        pairs: Real pairs measured for each finding.
        seed: Chooses the pairs.
    """

    scorer: str
    splits: str
    maps: str
    size: int = 256
    quantile: float = 0.05
    chance: float = 0.05
    pairs: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("quantile", "chance"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give a share from 0 to below 1")
        for name, least in (("size", 64), ("pairs", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; give {least} or more")

    def key(self) -> str:
        """SHA-256 of all that the limits and scores depend on beside the images."""
        files = {name: sha256_file(getattr(self, name)) for name in ("scorer", "splits", "maps")}
        content = {**asdict(self), **files, "segmenter": sha256_file(SHIPPED), "beyond": BEYOND}  # contents, not paths
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def prepare(self, folder: Path, manifest: Manifest) -> None:
        """Measure the limits on training patients, unless they stand in the folder already."""
        path = folder / LIMITS_FILE
        if (folder / LESIONS_FILE).is_file() and _key_of(path) == self.key() and PASTED in read_limits(folder):
            return
        scorer = load_scorer(self.scorer)
        measured = calibrate(
            manifest,
            read_splits(self.splits),
            self.maps,
            scorer,
            size=self.size,
            quantile=self.quantile,
            chance=self.chance,
            pairs=self.pairs,
            seed=self.seed,
        )
        measured.lesions.save(folder / LESIONS_FILE)
        content = {"key": self.key(), "scorer_sha256": scorer.sha256, "network": scorer.task.hparams["network"]}
        settings = {name: getattr(self, name) for name in ("size", "quantile", "chance", "pairs", "seed")}
        content |= {**settings, "training_lesions": len(measured.lesions), "limits": asdict(measured.limits)}
        write_json(path, {**content, PASTED: measured.real_lesions})

    def judge(self, folder: Path, records: Iterable[dict[str, Any]], manifest: Manifest) -> None:
        """Score images and write a verdict for each; verdicts that still hold are kept.

        Args:
            folder: The run folder, prepared.
            records: Provenance of the images made (see `cxrsynth.synthesis.provenance`).
            manifest: The archive of the sources.

        Raises:
            UserError: An image asks for a finding that the scorer does not know.
        """
        scorer = load_scorer(self.scorer)
        lesions = Lesions.load(folder / LESIONS_FILE)
        limits = Limits(**read_limits(folder)["limits"])
        splits = read_splits(self.splits)
        patients = dict(zip(splits["image_id"], splits["patient_id"].astype(str), strict=True))
        own = self.key()
        for record in records:
            key = hashlib.sha256("".join([own, record["image_sha256"], record["region_sha256"]]).encode()).hexdigest()
            path = folder / VERDICTS / f"{record['id']}.json"
            if _key_of(path) == key:
                continue
            asked = split_labels(str(record.get("findings", record["finding"])))
            if strange := sorted(set(asked) - set(scorer.findings)):
                raise UserError(f"scorer {self.scorer} does not know {strange[0]!r}; train it for the plan's findings")
            source, result, region = (
                to_square(read_image(file), self.size)
                for file in (
                    inside(manifest.root, record["source_path"]),
                    folder / record["image"],
                    folder / record["region"],
                )
            )
            region = region > 0.5
            before, after = scorer.pair(source, result)
            columns = [scorer.findings.index(name) for name in asked]
            lungs = segment(torch.stack([source, result]))
            patch = patch_of(result, region, PATCH).numpy()
            likeness, nearest = lesions.nearest(patch, patients.get(record["source_id"]))
            scores = {
                "gain": asked_gain(before, after, columns),
                "drift": off_target_drift(before, after, columns),
                "lungs": lungs_kept(lungs[0], lungs[1], region),
                "seam": seam(result, source, region),
                "out_of_range": out_of_range(result, region),
                "duplicate": likeness,
            }
            scores = {name: round(value, 5) for name, value in scores.items()}
            verdict = {"key": key, "scores": {**scores, "nearest_lesion": nearest}, **failures(scores, limits, asked)}
            write_text(path, json.dumps(verdict) + "\n")


def failures(scores: dict[str, float], limits: Limits, asked: list[str]) -> dict[str, Any]:
    """What a verdict says of an image.

    `accepted`; of a refused image also `rejected` (all reasons), and `check`, `score` and `limit` of the first of them.

    Args:
        scores: A number for each of `CHECKS`.
        limits: The limits.
        asked: Findings that were painted; the strictest limit of them counts.
    """
    bounds = {name: getattr(limits, name) for name in CHECKS if name not in ("gain", "drift")}
    bounds["gain"] = max(limits.gain[name] for name in asked)
    bounds["drift"] = min(limits.drift[name] for name in asked)
    failed = []
    for name in CHECKS:
        score, bound = scores[name], bounds[name]
        if name == "gain" and not score > bound:
            failed.append((name, score, bound, f"gain: {score:.3f} is not above {bound:.3f}"))
        elif name in AT_LEAST and score < bound:
            failed.append((name, score, bound, f"{name}: {score:.3f} is below {bound:.3f}"))
        elif name not in AT_LEAST and score > bound:
            failed.append((name, score, bound, f"{name}: {score:.3f} is above {bound:.3f}"))
    if not failed:
        return {"accepted": True}
    reasons = "; ".join(reason for *_, reason in failed)
    check, score, bound, _ = failed[0]
    return {"accepted": False, "rejected": reasons, "check": check, "score": score, "limit": bound}


def read_limits(folder: Path) -> dict[str, Any]:
    """What `selection.json` says: the limits, the scorer and the settings that they were measured with."""
    return json.loads((folder / LIMITS_FILE).read_text())


def read_verdict(folder: Path, name: str) -> dict[str, Any]:
    """The verdict on an image, without its key; empty when there is none."""
    path = folder / VERDICTS / f"{name}.json"
    if not path.is_file():
        return {}
    return {k: v for k, v in json.loads(path.read_text()).items() if k != "key"}


def _key_of(path: Path) -> str | None:
    try:
        return json.loads(path.read_text())["key"]
    except (OSError, ValueError, KeyError):
        return None
