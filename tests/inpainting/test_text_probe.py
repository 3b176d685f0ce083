import torch
from torch import Tensor, nn

from cxrsynth.inpainting.telling import corpus
from cxrsynth.inpainting.text import TextEncoder, Vocabulary
from cxrsynth.inpainting.text_probe import probe_text

NAMES = ["Cardiomegaly", "Consolidation", "Atelectasis"]
VOCABULARY = Vocabulary.train(corpus([], NAMES, ("PA", "AP")), 500, 96)


class Blind(nn.Module):
    """Gives every text the same kind of noise."""

    width = 16

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        states = torch.randn(len(ids), 1, self.width, generator=torch.Generator().manual_seed(len(ids)))
        return states, torch.ones(len(ids), 1, dtype=torch.bool)


class Reader(nn.Module):
    """Says of each text which findings it asserts, read off its sentences."""

    width = 3

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        denials = ("no ", "nor ", "absent", "not seen", "negative for", "without")
        rows = []
        for row in ids:
            text = VOCABULARY.tokenizer.decode(row[row >= 0].tolist()).lower().replace("enlarged heart", "cardiomegaly")
            said = [part for part in text.split(".") if not any(word in f"{part} " for word in denials)]
            rows.append([float(any(name.lower() in part for part in said)) for name in NAMES])
        return torch.tensor(rows)[:, None], torch.ones(len(ids), 1, dtype=torch.bool)


def test_a_blind_encoder_is_at_chance_and_a_reader_is_perfect():
    blind = probe_text(Blind(), VOCABULARY, NAMES, count=900)
    assert all(0.35 < value < 0.65 for value in [*blind.all.values(), *blind.negated.values()])
    reader = probe_text(Reader(), VOCABULARY, NAMES, count=900)
    assert all(value > 0.97 for value in [*reader.all.values(), *reader.negated.values()])


def test_words_alone_tell_findings_better_than_negations():
    torch.manual_seed(0)
    fresh = probe_text(TextEncoder(500, 32, 1, 2, 96).eval(), VOCABULARY, NAMES, count=900)
    assert set(fresh.all) == set(NAMES)
    assert min(fresh.all.values()) > 0.5
    assert max(fresh.all.values()) < 1.0
