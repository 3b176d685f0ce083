"""Do synthetic lesions help a segmenter, too? Real images alone against real and synthetic ones, at equal steps."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.networks.nets import UNet
from torch import Tensor
from torch.nn import functional as F

from cxrsynth import __version__
from cxrsynth.data.augment import build_augment
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.masks import MaskStore
from cxrsynth.data.squares import readable_square
from cxrsynth.evaluation.compare import verdict
from cxrsynth.evaluation.trainings import between_trainings, mean_draws, shares, spreads
from cxrsynth.files import sha256_file, write_json, write_text
from cxrsynth.study.arms import Arm, Recipe
from cxrsynth.study.material import Material

FEWEST = 10  # marked images of a finding, in training and in test, below which nothing can be learned or said
Say = Callable[[str], None]


@dataclass(frozen=True)
class SegmentationSettings:
    """How each segmenter is trained; the same for both.

    Attributes:
        size: Side of the squares, pixels.
        steps: Optimiser steps.
        batch_size: Images in a batch; half of them show a marked lesion.
        channels: Width of each level of the UNet.
        lr: Peak learning rate.
        augment: Strength of the augmentation.
        seeds: Trainings of each.
    """

    size: int = 64
    steps: int = 300
    batch_size: int = 16
    channels: Sequence[int] = (16, 32, 64)
    lr: float = 3e-3
    augment: float = 0.5
    seeds: int = 3


@dataclass(frozen=True)
class Marked:
    """Images on which every finding is marked or known to be absent, or else left out of the loss.

    Attributes:
        ids: N ids.
        patients: Patient of each.
        images: `[N, 1, S, S]` in [0, 1].
        masks: Bool `[N, C, S, S]`.
        known: Bool `[N, C]`.
    """

    ids: list[str]
    patients: list[str]
    images: Tensor
    masks: Tensor
    known: Tensor

    @property
    def present(self) -> Tensor:
        """Bool `[N, C]`: where a lesion is marked."""
        return self.masks.flatten(2).any(2)


def segmentation(
    material: Material, arms: dict[str, Arm], primary: str, settings: SegmentationSettings, draws: int, say: Say = print
) -> dict[str, Any]:
    """Train the segmenters that are not trained yet, and compare their Dice on real test lesions.

    Args:
        material: Of the study.
        arms: The arms by name; "real" and the primary one say which images are trained on.
        primary: The arm with synthetic images.
        settings: See `SegmentationSettings`.
        draws: Bootstrap draws of patients.
        say: Is told what happens.

    Returns:
        Figures for the page, or `{"why": reason}` where too few lesions are marked.
    """
    findings, why = _findings(material)
    if not findings:
        return {"why": why}
    tables: dict[str, list[pd.DataFrame]] = {"real": [], primary: []}
    for name in tables:
        for seed in range(settings.seeds):
            tables[name].append(
                _trained(material, arms[name].recipe(material, seed), name, seed, findings, settings, say)
            )
    return _figures(tables, primary, findings, settings, draws, material.seed)


def marked(manifest: Manifest, findings: Sequence[str], size: int) -> Marked:
    """The images of a manifest on which something is known of these findings' places; unreadable ones are left out."""
    store = MaskStore(manifest, size)
    table = manifest.table
    drawn = store.has(table.image_id.tolist(), findings)
    known = drawn | (manifest.targets(findings).numpy() == 0)
    rows, images, masks = [], [], []
    for row in np.flatnonzero(known.any(1)).tolist():
        image_id = str(table.image_id.iat[row])
        image = readable_square(manifest, image_id, size)
        if image is None:
            continue
        images.append(image)
        masks.append(store.batch([image_id] * len(findings), findings, size)[:, 0] > 0.5)
        rows.append(row)
    chosen = table.iloc[rows]
    return Marked(chosen.image_id.tolist(), chosen.patient_id.tolist(), torch.stack(images), torch.stack(masks),
                  torch.from_numpy(known[rows]))  # fmt: skip


def train(data: Marked, shown: Sequence[int], settings: SegmentationSettings, seed: int) -> UNet:
    """A residual UNet trained with soft Dice (Milletari et al. 2016, arXiv 1606.04797) and cross-entropy.

    Args:
        data: Training images.
        shown: Rows of the images that are drawn, repeated where one is drawn more often.
        settings: See `SegmentationSettings`.
        seed: Of weights, order and augmentation.
    """
    generator = np.random.default_rng([seed, 51])
    ill = [row for row in shown if data.present[row].any()]
    augment = build_augment(settings.augment)
    half = settings.batch_size // 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = list(settings.channels)
        network = UNet(2, 1, data.masks.shape[1], [*channels, channels[-1]], [2] * len(channels), num_res_units=2)
        optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps)
        for _ in range(settings.steps):
            rows = np.concatenate([generator.choice(ill, half), generator.choice(shown, settings.batch_size - half)])
            image, *moved = augment(data.images[rows], *(mask[:, None].float() for mask in data.masks[rows].unbind(1)))
            loss = _loss(network(standardise(image)), (torch.cat(moved, 1) > 0.5).float(), data.known[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def standardise(image: Tensor) -> Tensor:
    """Mean 0 and deviation 1, image by image."""
    spread, mean = torch.std_mean(image, (1, 2, 3), keepdim=True)
    return (image - mean) / spread.clamp_min(1e-3)


def _loss(logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """Soft Dice over the batch, mean of the findings, plus cross-entropy, where the mask is known."""
    weight = known[:, :, None, None].float()
    probability = logits.sigmoid() * weight
    both, either = (probability * mask).sum((0, 2, 3)), (probability + mask * weight).sum((0, 2, 3))
    entropy = F.binary_cross_entropy_with_logits(logits, mask, weight.expand_as(mask))
    return (1 - (2 * both + 1) / (either + 1)).mean() + entropy


@torch.no_grad()
def measure(network: UNet, test: Marked, findings: Sequence[str]) -> pd.DataFrame:
    """One row a test image and finding: `dice` where it is marked, `painted` (anything called) where it is absent."""
    called = torch.cat([network(standardise(part)) > 0 for part in test.images.split(64)])
    both = (called & test.masks).sum((2, 3)).double()
    either = called.sum((2, 3)) + test.masks.sum((2, 3))
    rows = []
    for number, (image_id, patient) in enumerate(zip(test.ids, test.patients, strict=True)):
        for column, finding in enumerate(findings):
            if not test.known[number, column]:
                continue
            there = bool(test.present[number, column])
            dice = float(2 * both[number, column] / either[number, column]) if there else np.nan
            painted = np.nan if there else float(called[number, column].any())
            rows.append((image_id, patient, finding, dice, painted))
    return pd.DataFrame(rows, columns=["image_id", "patient_id", "finding", "dice", "painted"])


def _findings(material: Material) -> tuple[list[str], str]:
    """Findings with enough marked images, or why there are none."""
    counts = {}
    for split in ("train", "test"):
        part = material.of(split)
        drawn = MaskStore(part, 8).has(part.table.image_id.tolist(), material.findings)
        counts[split] = (drawn & (part.targets(material.findings).numpy() == 1)).sum(0)
    kept = [f for k, f in enumerate(material.findings) if min(counts["train"][k], counts["test"][k]) >= FEWEST]
    most = max(int(min(pair)) for pair in zip(counts["train"], counts["test"], strict=True))
    return kept, f"no finding is marked on {FEWEST} training and {FEWEST} test images (most: {most})"


def _trained(
    material: Material,
    recipe: Recipe,
    name: str,
    seed: int,
    findings: list[str],
    settings: SegmentationSettings,
    say: Say,
) -> pd.DataFrame:
    """Measurements of one training, made now or before."""
    extra = recipe.extra or (recipe.before.extra if recipe.before else None)
    file = material.folder / "segmentation" / name / f"seed{seed}.csv"
    marks = [path for root in {material.manifest_path.parent, *([extra.parent] if extra else [])}
             for path in (root / "masks.csv", root / "boxes.csv") if path.is_file()]  # fmt: skip
    parts = [material.fingerprint(), None if extra is None else material.digest(extra), sorted(recipe.copies.items()),
             sorted(map(sha256_file, marks)), findings, asdict(settings), seed, __version__]  # fmt: skip
    stamp = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    record = file.with_suffix(".json")
    title = f"segmentation/{name}/seed{seed}"
    if record.is_file() and json.loads(record.read_text()) == {"fingerprint": stamp, "output": _hash(file)}:
        say(f"{title}: done before")
        return pd.read_csv(file, dtype={"image_id": str, "patient_id": str})
    images = material.training if extra is None else material.training + Manifest.load(extra)
    data = marked(images, findings, settings.size)
    shown = [row for row, image_id in enumerate(data.ids) for _ in range(recipe.copies.get(image_id, 1))]
    network = train(data, shown, settings, material.seed + seed)
    table = measure(network, marked(material.of("test"), findings, settings.size), findings)
    write_text(file, table.to_csv(index=False, lineterminator="\n"))
    write_json(record, {"fingerprint": stamp, "output": _hash(file)})
    say(f"{title}: trained on {len(set(shown))} images")
    return table


def _hash(file: Path) -> str | None:
    return sha256_file(file) if file.is_file() else None


def _figures(
    tables: dict[str, list[pd.DataFrame]],
    primary: str,
    findings: list[str],
    settings: SegmentationSettings,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Dice by finding with intervals over patients and trainings, and how often something is seen where nothing is."""
    first = tables["real"][0]
    wide = {name: [table.pivot(index=["image_id", "patient_id"], columns="finding", values="dice")[findings]
                   for table in of] for name, of in tables.items()}  # fmt: skip
    patients = wide["real"][0].index.get_level_values("patient_id").tolist()
    values = {
        name: mean_draws([t.to_numpy(np.float64) for t in of], patients, draws, seed) for name, of in wide.items()
    }
    between = between_trainings(list(values.values()))
    gains = spreads(values[primary] - values["real"], seed, between=between)
    columns = {name: shares(value, seed, between=between) for name, value in values.items()}
    rows = [
        {
            "finding": finding,
            "lesions": int(first.loc[first["finding"] == finding, "dice"].count()) if finding in findings else None,
            "real": asdict(columns["real"][k]),
            "synthetic": asdict(columns[primary][k]),
            "gain": asdict(gains[k]),
            "verdict": verdict(gains[k].low, gains[k].high),
        }
        for k, finding in enumerate([*findings, "mean"])
    ]
    false = {name: float(np.nanmean([table["painted"].mean() for table in of])) for name, of in tables.items()}
    return {
        "rows": rows,
        "painted_where_absent": {"real": false["real"], "synthetic": false[primary]},
        "patients": len(set(patients)),
        "settings": asdict(settings),
    }
