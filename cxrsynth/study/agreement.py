"""Do images show what their text says? A small contrastive model tells, beside real images and its floor."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrsynth import __version__
from cxrsynth.classification.compact import CompactNet
from cxrsynth.data.augment import build_augment
from cxrsynth.data.labels import find
from cxrsynth.data.manifest import Manifest, split_labels
from cxrsynth.data.sentences import write_sentences
from cxrsynth.data.squares import readable_square
from cxrsynth.evaluation.bootstrap import bootstrap
from cxrsynth.files import write_json
from cxrsynth.inpainting.text import TextEncoder, Vocabulary
from cxrsynth.study.material import Material

WORDINGS = 4  # texts of each finding that an image is compared with, each in other words
SHUFFLES = 20  # permutations of the texts that the floor is the mean of
MOST = 400  # images of each kind that are looked at
Say = Callable[[str], None]
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class AgreementSettings:
    """How the model is trained.

    Attributes:
        size: Side of the squares, pixels.
        steps: Optimiser steps.
        batch_size: Pairs in a batch; half of them show a finding.
        width: Size of both towers' vectors.
        vocabulary: Most tokens, the 256 bytes among them.
        lr: Peak learning rate.
        augment: Strength of the augmentation of images.
    """

    size: int = 64
    steps: int = 400
    batch_size: int = 32
    width: int = 64
    vocabulary: int = 500
    lr: float = 2e-3
    augment: float = 0.5


class ImageText(nn.Module):
    """Two towers whose vectors meet on the unit sphere (Radford et al. 2021, arXiv 2103.00020).

    Args:
        vocabulary: Of the texts.
        width: Size of the vectors.
    """

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.image = CompactNet(width)
        nn.init.zeros_(self.image.output.bias)  # findings' prior logits, which would make all vectors alike
        self.text = TextEncoder(len(vocabulary), width, depth=1, limit=vocabulary.limit)
        self.scale = nn.Parameter(torch.tensor(10.0).log())

    def images(self, images: Tensor) -> Tensor:
        """Unit vectors `[B, width]` of images `[B, 1, S, S]` in [0, 1]."""
        return F.normalize(self.image(images), dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors `[B, width]`."""
        states, _ = self.text(self.vocabulary.ids(texts, cut=True))
        return F.normalize(states[:, 0], dim=1)

    def loss(self, images: Tensor, texts: Sequence[str], keys: Sequence[Any]) -> Tensor:
        """Contrastive loss both ways; each text of the same findings is right (Yang et al. 2022, arXiv 2204.03610)."""
        logits = self.scale.exp().clamp_max(100) * self.images(images) @ self.texts(texts).T
        same = torch.tensor([[float(a == b) for b in keys] for a in keys])
        right = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def agreement(material: Material, settings: AgreementSettings, draws: int, say: Say = print) -> dict[str, Any]:
    """How often an image's nearest text names the finding that it was asked to show.

    The texts are written sentences: of each finding and of none, in several wordings; so chance is 1 / (C + 1).

    Args:
        material: Of the study.
        settings: See `AgreementSettings`.
        draws: Bootstrap draws of patients.
        say: Is told what happens.

    Returns:
        Figures for the page, or `{"why": reason}`.
    """
    images = material.synthetic(0)
    held_out = material.of("test")
    if len(material.findings) < 2:
        return {"why": "retrieval needs two findings or more"}
    parts = [material.fingerprint(), material.digest(material.images(0)), asdict(settings), draws, __version__]
    stamp = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    file = material.folder / "agreement.json"
    if file.is_file() and (found := json.loads(file.read_text()))["fingerprint"] == stamp:
        say("agreement of text and image: done before")
        return found["figures"]
    model = train(material.training, material.findings, settings, material.seed)
    rows = {"synthetic images": _asked(images, material), "real test images": _asked(held_out, material)}
    if material.records:
        sources = {record["id"]: record["source_id"] for record in material.records}
        asked = [(sources[i], f, p) for i, f, p in rows["synthetic images"] if i in sources]
        rows["their sources before painting"] = asked
    figures: list[dict[str, Any]] = []
    for kind, asked in rows.items():
        manifest = images if kind == "synthetic images" else material.archive
        figures += _rates(kind, model, manifest, asked, material, settings.size, draws)
    trained = {"images": len(material.training), "reports": int((material.training.table.text != "").sum())}
    result = {"rows": figures, "chance": 1 / (1 + len(material.findings)), **trained, "settings": asdict(settings)}
    write_json(file, {"fingerprint": stamp, "figures": result})
    say(f"agreement of text and image: trained on {len(material.training)} images")
    return result


def train(archive: Manifest, findings: list[str], settings: AgreementSettings, seed: int) -> ImageText:
    """Train on real images with their reports and, as often and where there is none, sentences written from labels."""
    generator = np.random.default_rng([seed, 61])
    known = archive.targets(findings).numpy()
    present = [[f for f, value in zip(findings, row, strict=True) if value == 1] for row in known]
    absent = [[f for f, value in zip(findings, row, strict=True) if value == 0] for row in known]
    reports = archive.table.text.tolist()
    squares, rows = [], []
    for row, image_id in enumerate(archive.table.image_id):
        if present[row] or absent[row]:
            square = readable_square(archive, image_id, settings.size)
            if square is not None:
                squares.append(square)
                rows.append(row)
    images = torch.stack(squares)

    def text(row: int) -> str:
        written = write_sentences(present[row], absent[row], generator)
        return reports[row] if reports[row] and (not written or generator.random() < 0.5) else written

    ill = [place for place, row in enumerate(rows) if present[row]]
    vocabulary = Vocabulary.train([text(row) for row in rows] + [text(row) for row in rows], settings.vocabulary)
    half = settings.batch_size // 2
    augment = build_augment(settings.augment)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ImageText(vocabulary, settings.width)
        optimizer = torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.steps)
        for _ in range(settings.steps):
            places = np.concatenate([generator.choice(ill or len(rows), half),
                                     generator.choice(len(rows), settings.batch_size - half)])  # fmt: skip
            chosen = [rows[place] for place in places]
            loss = model.loss(augment(images[places])[0], [text(row) for row in chosen],
                              [tuple(present[row]) for row in chosen])  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _asked(manifest: Manifest, material: Material) -> list[tuple[str, str, str]]:
    """Image, finding and patient of at most `MOST` images that show exactly one finding of the study."""
    table = manifest.table
    named = [[find(label, material.findings) for label in split_labels(labels)] for labels in table.labels]
    rows = [row for row, names in enumerate(named) if len(names) == 1 and names[0]]
    if len(rows) > MOST:
        rows = sorted(np.random.default_rng([material.seed, 62]).permutation(rows)[:MOST].tolist())
    patients = [patient or f"image {row}" for row, patient in enumerate(table.patient_id)]
    return [(str(table.image_id.iat[row]), str(named[row][0]), patients[row]) for row in rows]


@torch.no_grad()
def nearest(model: ImageText, images: Tensor, findings: Sequence[str], seed: int) -> list[str]:
    """The finding whose text is nearest to each image on average over its wordings; "" = the text of no finding."""
    generator = np.random.default_rng([seed, 63])
    choices = ["", *findings]
    means = []
    for name in choices:
        texts = [write_sentences([name] if name else [], [] if name else list(findings), generator)
                 for _ in range(WORDINGS)]  # fmt: skip
        means.append(model.texts(texts).mean(0))
    scores = torch.cat([model.images(part) for part in images.split(64)]) @ torch.stack(means).T
    return [choices[best] for best in scores.argmax(1).tolist()]


def _rates(
    kind: str,
    model: ImageText,
    manifest: Manifest,
    asked: list[tuple[str, str, str]],
    material: Material,
    size: int,
    draws: int,
) -> list[dict[str, Any]]:
    """Retrieval rate of the asked finding, and of a finding asked of another image: what it would be by chance."""
    read = [(one, readable_square(manifest, one[0], size)) for one in asked]
    asked, squares = [one for one, square in read if square is not None], [s for _, s in read if s is not None]
    if len(asked) < 2:
        return []
    found = np.array(nearest(model, torch.stack(squares), material.findings, material.seed))
    wanted = np.array([finding for _, finding, _ in asked])
    generator = np.random.default_rng([material.seed, 64])
    shuffled = np.mean([found == generator.permutation(wanted) for _ in range(SHUFFLES)], axis=0)
    scores = {kind: (found == wanted).astype(np.float64)}
    if kind == "synthetic images":
        scores["synthetic images, texts shuffled"] = shuffled
    rows = []
    for name, score in scores.items():
        limits = bootstrap(_mean(score), [patient for _, _, patient in asked], draws, material.seed)[0]
        by_finding = pd.Series(score).groupby(wanted).mean().to_dict()
        rows.append({"kind": name, "images": len(asked), **asdict(limits), "by_finding": by_finding})
    return rows


def _mean(score: Array) -> Callable[[Array], Array]:
    return lambda weights: (weights @ score / weights.sum(1))[:, None]
