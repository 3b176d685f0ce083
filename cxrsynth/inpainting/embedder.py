"""How the velocity field is told the condition: tokens for cross-attention, one vector for the time embedding."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cxrsynth.inpainting.condition import SEXES, Condition
from cxrsynth.precision import autocast

ABSENT, PRESENT, UNKNOWN = 0, 1, 2


@dataclass(frozen=True)
class Embedded:
    """An embedded condition: tokens `[B, N, width]` and the vector `[B, vector]`."""

    tokens: Tensor
    vector: Tensor

    def __len__(self) -> int:
        return self.vector.shape[0]


class ConditionEmbedder(nn.Module):
    """Turns a condition into tokens and one vector.

    Each finding owns three learned tokens: absent, present and unknown. View, sex, age and text add theirs where the
    field is chosen, each with a learned token of its own for unknown. The vector is the sum of all tokens through a
    small perceptron. Fields that are not chosen are not looked at.

    Args:
        findings: Number of findings, C.
        width: Size of a token.
        vector: Size of the vector.
        chosen: Which of view, sex, age and text to use besides the findings.
        views: Number of views.
        text: Encoder of texts (see `TextEncoder`), needed where `chosen` names text.
        text_tokens: Tokens that a text becomes.
        bf16: Compute in bfloat16 (autocast).
    """

    def __init__(
        self,
        findings: int,
        width: int,
        vector: int,
        chosen: Sequence[str] = (),
        views: int = 2,
        text: nn.Module | None = None,
        text_tokens: int = 8,
        bf16: bool = False,
    ):
        super().__init__()
        self.bf16 = bf16
        self.states = nn.Parameter(torch.randn(findings, 3, width))
        self.to_vector = nn.Sequential(nn.Linear(width, vector), nn.SiLU(), nn.Linear(vector, vector))
        self.view = nn.Embedding(1 + views, width) if "view" in chosen else None
        self.sex = nn.Embedding(1 + len(SEXES), width) if "sex" in chosen else None
        self.age = AgeTokens(width) if "age" in chosen else None
        assert (text is None) == ("text" not in chosen), "a text encoder and the field text belong together"
        self.text = None if text is None else TextTokens(text, width, text_tokens)

    def forward(self, condition: Condition) -> Embedded:
        """Embed the condition of B images."""
        with autocast(condition.findings.device, self.bf16):
            tokens = torch.cat([part.float() for part in self._tokens(condition)], 1)
            return Embedded(tokens, self.to_vector(tokens.sum(1)))

    def _tokens(self, condition: Condition) -> Iterator[Tensor]:
        present = condition.findings
        state = torch.where(present.isnan(), UNKNOWN, (present > 0.5).long())
        yield self.states[torch.arange(state.shape[1], device=state.device), state]
        if self.view is not None:
            yield self.view(condition.view + 1)[:, None]  # row 0 = unknown
        if self.sex is not None:
            yield self.sex(condition.sex + 1)[:, None]
        if self.age is not None:
            yield self.age(condition.age)[:, None]
        if self.text is not None:
            yield self.text(condition.text)


class AgeTokens(nn.Module):
    """A token for an age: cosines and sines of it, slow enough to tell decades apart, through a linear layer.

    Args:
        width: Size of the token.
        waves: Number of frequencies; the fastest has a period of `200 / waves` years.
    """

    def __init__(self, width: int, waves: int = 8):
        super().__init__()
        self.waves = waves
        self.unknown = nn.Parameter(torch.randn(width))
        self.linear = nn.Linear(2 * waves, width)

    def forward(self, age: Tensor) -> Tensor:
        """Tokens `[B, width]` of ages in years `[B]`, NaN = unknown."""
        years = age.nan_to_num()
        angle = years[:, None] / 100 * math.pi * torch.arange(1, self.waves + 1, device=age.device)
        token = self.linear(torch.cat([angle.cos(), angle.sin()], 1))
        return torch.where(age.isnan()[:, None], self.unknown.to(token.dtype), token)


class TextTokens(nn.Module):
    """A fixed number of tokens from a text of any length, by learned queries that attend to its words.

    Since their number is fixed, a text's tokens do not depend on how far others in the batch make it padded, and a
    cross-attention needs no mask (the resampler of Alayrac et al. 2022, arXiv 2204.14198, in one layer).

    Args:
        encoder: Maps ids `[B, L]` to states `[B, M, encoder.width]` and which of them count, bool `[B, M]`.
        width: Size of a token.
        count: Number of tokens.
    """

    def __init__(self, encoder: nn.Module, width: int, count: int):
        super().__init__()
        self.encoder = encoder
        self.unknown = nn.Parameter(torch.randn(count, width))
        self.queries = nn.Parameter(torch.randn(count, width))
        self.project = nn.Linear(int(encoder.width), width)  # type: ignore[arg-type]
        heads = next(heads for heads in (4, 2, 1) if width % heads == 0)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens `[B, count, width]` of token ids `[B, L]`; those of a row without text are learned."""
        absent = (ids < 0).all(1)
        states, counts = self.encoder(ids)
        states = self.project(states)
        queries = self.queries.to(states.dtype).expand(len(ids), -1, -1)
        pooled = self.attend(queries, states, states, key_padding_mask=~counts, need_weights=False)[0]
        tokens = self.norm(queries + pooled)
        return torch.where(absent[:, None, None], self.unknown.to(tokens.dtype), tokens)
