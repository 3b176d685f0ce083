"""Free text: a byte-pair vocabulary learned from an archive's own reports, and a small transformer that reads it."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from cxrsynth.errors import UserError

PADDING = -1


class Vocabulary:
    """Turns texts into token ids and back; as plain JSON it travels inside a checkpoint.

    Args:
        tokenizer: Of the package `tokenizers`, without truncation and padding.
        limit: Most tokens of a text.
    """

    def __init__(self, tokenizer: Tokenizer, limit: int = 64):
        self.tokenizer, self.limit = tokenizer, limit
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    @classmethod
    def train(cls, texts: Iterable[str], size: int = 1000, limit: int = 64) -> "Vocabulary":
        """Learn byte-pair merges (Sennrich et al. 2016, arXiv 1508.07909) over bytes, so that any text can be written.

        Args:
            texts: What to learn from; case is ignored.
            size: Most tokens, 256 bytes among them.
            limit: Most tokens of a text.

        Raises:
            UserError: A size of 256 or less.
        """
        if size <= 256:
            raise UserError(f"vocabulary is {size}; give more than the 256 single bytes that are always in it")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer, limit)

    @classmethod
    def from_json(cls, text: str, limit: int = 64) -> "Vocabulary":
        """The vocabulary that `to_json` wrote."""
        return cls(Tokenizer.from_str(text), limit)

    def to_json(self) -> str:
        """Everything needed to use the vocabulary elsewhere."""
        return self.tokenizer.to_str()

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def ids(self, texts: Sequence[str], cut: bool = False) -> Tensor:
        """Token ids, int64 `[B, L]`, padded with -1; a blank text is a row of -1, which means that nothing is said.

        Args:
            texts: B texts.
            cut: Cut texts that are too long, as training does with long reports.

        Raises:
            UserError: A text has more tokens than the limit and may not be cut.
        """
        rows = [encoding.ids if text.strip() else [] for text, encoding in zip(texts, self._encode(texts), strict=True)]
        longest = max(map(len, rows), default=0)
        if longest > self.limit and not cut:
            text = texts[[len(row) for row in rows].index(longest)]
            words = len(text.split()) * self.limit // longest
            raise UserError(
                f"text has {longest} tokens, this inpainter reads {self.limit}; shorten it to about {words} words"
            )
        table = torch.full((len(rows), max(1, min(longest, self.limit))), PADDING)
        for row, known in enumerate(rows):
            kept = known[: self.limit]
            table[row, : len(kept)] = torch.tensor(kept, dtype=torch.long)
        return table

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        return self.tokenizer.encode_batch(list(texts))


class TextEncoder(nn.Module):
    """A small transformer that reads token ids, trained together with the velocity field.

    Args:
        vocabulary: Rows of the embedding: no id is larger.
        width: Size of its states.
        depth: Number of layers.
        heads: Attention heads.
        limit: Most tokens of a text.
    """

    def __init__(self, vocabulary: int = 1000, width: int = 64, depth: int = 2, heads: int = 4, limit: int = 64):
        super().__init__()
        self.width = width
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.1 * torch.randn(1 + limit, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Read texts.

        Args:
            ids: Token ids `[B, L]`, -1 = padding.

        Returns:
            States `[B, 1 + L, width]`, the first of the text as a whole, and which of them count, bool `[B, 1 + L]`.
        """
        counts = nn.functional.pad(ids >= 0, (1, 0), value=True)
        states = nn.functional.pad(self.words(ids.clamp_min(0)), (0, 0, 1, 0)) + self.places[: 1 + ids.shape[1]]
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=~counts)
        return self.norm(states), counts


@torch.no_grad()
def embed_texts(encoder: nn.Module, vocabulary: Vocabulary, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """One vector a text, float32 `[N, encoder.width]`: the mean of its states, with the encoder as it is."""
    means = []
    for start in range(0, len(texts), batch_size):
        states, counts = encoder(vocabulary.ids(texts[start : start + batch_size], cut=True))
        weight = counts[..., None].float()
        means.append((states.float() * weight).sum(1) / weight.sum(1))
    return torch.cat(means)
