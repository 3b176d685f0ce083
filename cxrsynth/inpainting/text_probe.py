"""Does a text encoder know the domain? A linear probe on its vectors, before and after training (RoentGen's claim)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from cxrsynth.data.sentences import write_sentence
from cxrsynth.inpainting.text import Vocabulary, embed_texts

MENTIONED = 3  # findings that a text speaks of, at most


@dataclass(frozen=True)
class ProbeResult:
    """AUROC of telling a finding that a held-out text asserts.

    Attributes:
        all: By finding, against every other text.
        negated: By finding, against the texts that deny it, which an encoder must read negations for.
    """

    all: dict[str, float]
    negated: dict[str, float]


def probe_text(
    encoder: nn.Module,
    vocabulary: Vocabulary,
    findings: Sequence[str],
    count: int = 1500,
    seed: int = 0,
) -> ProbeResult:
    """Fit a linear probe for each finding on sentences and judge it on others.

    Args:
        encoder: Text encoder (see `TextEncoder`), as it is.
        vocabulary: Of the encoder.
        findings: Two or more.
        count: Number of texts; a third is held out.
        seed: Of the texts.
    """
    rng = np.random.default_rng([seed, 17])
    texts, states = [], np.zeros((count, len(findings)))
    for row in range(count):
        chosen = rng.permutation(len(findings))[: rng.integers(1, MENTIONED + 1)]
        present = rng.random(len(chosen)) < 0.5
        states[row, chosen] = np.where(present, 1, -1)
        texts.append(" ".join(write_sentence(findings[k], yes, rng) for k, yes in zip(chosen, present, strict=True)))
    vectors = embed_texts(encoder, vocabulary, texts).cpu().numpy()
    vectors = (vectors - vectors.mean(0)) / (vectors.std(0) + 1e-6)
    fit = np.arange(count) < count * 2 // 3
    every, negated = {}, {}
    for k, name in enumerate(findings):
        asserted = states[:, k] > 0
        probe = LogisticRegression(max_iter=500).fit(vectors[fit], asserted[fit])
        score = probe.decision_function(vectors)
        spoken = ~fit & (states[:, k] != 0)
        every[name] = float(roc_auc_score(asserted[~fit], score[~fit]))
        negated[name] = float(roc_auc_score(asserted[spoken], score[spoken]))
    return ProbeResult(every, negated)
