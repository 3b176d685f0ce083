"""What a training batch tells the velocity field of the painted region: findings, text, view, sex and age."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxrsynth.data.denials import read_findings, without_denials
from cxrsynth.data.labels import canonical
from cxrsynth.data.sentences import write_sentences
from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import SEXES, Condition, index_of
from cxrsynth.inpainting.text import Vocabulary


@dataclass(frozen=True)
class Teller:
    """Makes the condition of a training batch.

    Attributes:
        findings: Names of the findings, in the order of the targets.
        views: Names of the views.
        vocabulary: Of the text encoder; None where the inpainter reads no text.
        written: Probability that sentences written from labels, view, sex and age stand in for a report that the image
            has. Images without one always get such sentences.
        seed: Of the sentences.
    """

    findings: tuple[str, ...]
    views: tuple[str, ...] = ("PA", "AP")
    vocabulary: Vocabulary | None = None
    written: float = 0.5
    seed: int = 0

    def __call__(self, batch: Mapping[str, Any], full: Tensor, epoch: int = 0) -> Condition:
        """The condition of a batch of the datamodule.

        Args:
            batch: `target [B, C]`, `finding [B]` and, where the inpainter uses them, `image_id`, `view`, `sex`, `text`
                (lists of str, blank = unknown) and `age [B]`.
            full: Bool `[B]`, which images are painted as a whole.
            epoch: Sentences are drawn for each image and epoch.
        """
        findings = findings_of(batch["target"], batch["finding"], full)
        told: dict[str, Tensor] = {}
        if "view" in batch:
            told["view"] = index_of(batch["view"], self.views)
        if "sex" in batch:
            told["sex"] = index_of(batch["sex"], SEXES)
        if "age" in batch:
            told["age"] = batch["age"]
        if self.vocabulary is not None:
            told["text"] = self.vocabulary.ids(self.texts(batch, findings, full, epoch), cut=True)
        return Condition(findings, **{name: value.to(findings.device) for name, value in told.items()})

    def texts(self, batch: Mapping[str, Any], findings: Tensor, full: Tensor, epoch: int = 0) -> list[str]:
        """A text for each image that is true of its region.

        A report speaks of the whole image. It is used where the whole image is painted, and where the image has no
        finding outside the region; else sentences say what is known of the region.

        Args:
            batch: See `__call__`.
            findings: What is known of the regions, `[B, C]`.
            full: See `__call__`.
            epoch: See `__call__`.
        """
        count = len(findings)
        blank = [""] * count
        ids, views, sexes, reports = (batch.get(name, blank) for name in ("image_id", "view", "sex", "text"))
        ages = batch["age"].tolist() if "age" in batch else [float("nan")] * count
        elsewhere = ((batch["target"] == 1) & (findings != 1)).any(1).tolist()
        known, texts = findings.tolist(), []
        for i in range(count):
            rng = np.random.default_rng([self.seed, epoch, zlib.crc32(str(ids[i]).encode())])
            usable = bool(reports[i]) and (bool(full[i]) or not elsewhere[i])
            if usable and rng.random() >= self.written:
                texts.append(reports[i])
                continue
            present, absent = ([f for f, k in zip(self.findings, known[i], strict=True) if k == v] for v in (1.0, 0.0))
            texts.append(write_sentences(present, absent, rng, views[i], sexes[i], ages[i]))
        return texts


def findings_of(target: Tensor, finding: Tensor, full: Tensor | None = None) -> Tensor:
    """What is known of the region in which each image's drawn finding lies.

    The drawn finding is present. Findings that the image has besides may lie anywhere: unknown. Findings that it lacks
    are absent; findings it was never read for stay unknown. A healthy image lacks them all. Where the region is the
    whole image, the target is what is known.

    Args:
        target: `[B, C]`; 1, 0 or NaN.
        finding: Index drawn for each image, int64 `[B]`; -1 = none: healthy, or diseased where nobody knows.
        full: Bool `[B]`, which images are painted as a whole; None = none of them.

    Returns:
        float32 `[B, C]`; 1, 0 or NaN.
    """
    healthy = (finding < 0) & ~(target == 1).any(1)
    known = target.masked_fill(target == 1, torch.nan)
    drawn = torch.arange(target.shape[1], device=target.device) == finding[:, None]
    known = known.masked_fill(drawn, 1.0)
    if full is not None:
        known = torch.where(full[:, None].to(target.device), target, known)
    return known.masked_fill(healthy[:, None], 0.0)


def corpus(reports: Sequence[str], findings: Sequence[str], views: Sequence[str], seed: int = 0) -> Iterator[str]:
    """What a vocabulary is learned from: an archive's reports, and sentences as training writes them."""
    yield from (report for report in reports if report)
    rng = np.random.default_rng([seed, len(findings)])
    for _ in range(2000):
        names = rng.permutation(list(findings)).tolist()
        count = int(rng.integers(min(3, len(names)) + 1))
        view, sex = str(rng.choice(["", *views])), str(rng.choice(["", *SEXES]))
        yield write_sentences(names[:count], names[count:], rng, view, sex, float(rng.integers(1, 100)))


def wish(
    teller: Teller,
    fields: Sequence[str],
    batch: int,
    findings: Sequence[str] | None = None,
    text: str = "",
    view: str = "",
    sex: str = "",
    age: float = math.nan,
) -> Condition:
    """What a user asks for, the same for each image of a batch.

    Args:
        teller: Of the inpainter: its findings, views and vocabulary.
        fields: What the inpainter was trained with besides findings.
        batch: Number of images.
        findings: Names of the findings to be shown, synonyms allowed, all others absent; an empty list asks for a
            healthy image (removal); None leaves them to the text: its denials are taken out of it (see
            `absent_by`), and what it does not deny is unknown.
        text: Free text; blank = none.
        view: One of the inpainter's views; blank = unknown.
        sex: F or M; blank = unknown.
        age: Years; NaN = unknown.

    Raises:
        UserError: A field that the inpainter was not trained with, a name that it does not know, an age outside 0 to
            120, or a text that is too long.
    """
    given = {"text": bool(text.strip()), "view": bool(view), "sex": bool(sex), "age": not math.isnan(age)}
    for name, asked in given.items():
        if asked and name not in fields:
            raise UserError(f"{name} is given, but this inpainter was trained without it; it knows {_list(fields)}")
    if view and view not in teller.views:
        raise UserError(f"view is {view!r}; this inpainter knows {', '.join(teller.views)}")
    if sex and sex not in SEXES:
        raise UserError(f"sex is {sex!r}; give {' or '.join(SEXES)}")
    if not math.isnan(age) and not 0 <= age <= 120:
        raise UserError(f"age is {age}; give years from 0 to 120")
    known = list(teller.findings)
    if findings is None:
        absent, text = absent_by(text, known), without_denials(text, known)
        target = torch.tensor([[0.0 if name in absent else torch.nan for name in known]])
    else:
        target = Condition.from_names([[canonical(name, known) for name in findings]], known).findings
    told = {"view": index_of([view], teller.views), "sex": index_of([sex], SEXES), "age": torch.tensor([age])}
    if text.strip():
        assert teller.vocabulary is not None, "a trained inpainter that reads text has a vocabulary"
        told["text"] = teller.vocabulary.ids([text])
    return Condition(target, **told)[[0] * batch]


def absent_by(text: str, findings: Sequence[str]) -> list[str]:
    """The findings that a text says are not there; all of them where it denies some and asserts none.

    A small text encoder hears "no" too weakly to be relied on, and is not told what is denied (see docs/design.md).
    """
    read = read_findings(text, findings)
    return [name for name in findings if not read.get(name, any(read.values()) or not read)]


def _list(fields: Sequence[str]) -> str:
    return ", ".join(["findings", *fields])
