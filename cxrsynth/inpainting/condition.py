"""What the painted image shows, and how the velocity field is told."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cxrsynth.errors import UserError

ABSENT, PRESENT, UNKNOWN = 0, 1, 2


@dataclass(frozen=True)
class Condition:
    """The condition of a batch.

    Attributes:
        findings: float32 `[B, C]`; 1 = present, 0 = absent, NaN = unknown.
    """

    findings: Tensor

    @classmethod
    def from_names(cls, asked: Sequence[Sequence[str]], findings: Sequence[str]) -> "Condition":
        """The named findings present, all others absent.

        Args:
            asked: For each image the names of the findings it shows; an empty list is a healthy image.
            findings: The vocabulary, in the order of the network's outputs.

        Raises:
            UserError: A name is not in the vocabulary.
        """
        table = torch.zeros(len(asked), len(findings))
        for row, names in enumerate(asked):
            for name in names:
                if name not in findings:
                    raise UserError(f"finding {name!r} is unknown to this inpainter; choose from {', '.join(findings)}")
                table[row, list(findings).index(name)] = 1.0
        return cls(table)

    @classmethod
    def none(cls, batch: int, findings: int) -> "Condition":
        """No finding: every one absent, a healthy image."""
        return cls(torch.zeros(batch, findings))

    @classmethod
    def unknown(cls, batch: int, findings: int) -> "Condition":
        """Nothing known: the unconditional branch of guidance."""
        return cls(torch.full((batch, findings), torch.nan))

    def __len__(self) -> int:
        return self.findings.shape[0]

    def to(self, device: torch.device | str) -> "Condition":
        """The same condition on a device."""
        return Condition(self.findings.to(device))

    def as_unknown(self) -> "Condition":
        """Every field forgotten."""
        return Condition(torch.full_like(self.findings, torch.nan))

    def as_none(self) -> "Condition":
        """Every finding absent, other fields as they are."""
        return Condition(torch.zeros_like(self.findings))

    def dropped(self, whole: float, each: float, generator: torch.Generator | None = None) -> "Condition":
        """Forget at random, so that the field can be asked with any part of the condition missing.

        Args:
            whole: Probability that an image loses all of its condition (Ho & Salimans 2022, arXiv 2207.12598).
            each: Probability that a finding of an image is lost on its own.
            generator: Source of the draws, on the CPU.
        """
        batch, findings = self.findings.shape
        lost = torch.rand(batch, 1, generator=generator) < whole
        lost = lost | (torch.rand(batch, findings, generator=generator) < each)
        return Condition(self.findings.masked_fill(lost.to(self.findings.device), torch.nan))

    @staticmethod
    def cat(conditions: Sequence["Condition"]) -> "Condition":
        """One batch after another."""
        return Condition(torch.cat([condition.findings for condition in conditions]))


class ConditionEmbedder(nn.Module):
    """Turns a condition into tokens for cross-attention and one vector for the time embedding.

    Each finding owns three learned embeddings: absent, present and unknown. The vector is their sum through a small
    perceptron, the tokens are one a finding.

    Args:
        findings: Number of findings, C.
        width: Size of a token.
        vector: Size of the vector.
    """

    def __init__(self, findings: int, width: int, vector: int):
        super().__init__()
        self.states = nn.Parameter(torch.randn(findings, 3, width))
        self.to_vector = nn.Sequential(nn.Linear(width, vector), nn.SiLU(), nn.Linear(vector, vector))

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Embed.

        Args:
            condition: For B images.

        Returns:
            Tokens `[B, C, width]` and the vector `[B, vector]`.
        """
        present = condition.findings
        state = torch.where(present.isnan(), UNKNOWN, (present > 0.5).long())
        tokens = self.states[torch.arange(state.shape[1], device=state.device), state]
        return tokens, self.to_vector(tokens.sum(1))
