import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting.text import TextEncoder, Vocabulary, embed_texts

TEXTS = ["No pleural effusion.", "Small pleural effusion at the left base.", "The heart is enlarged."] * 5


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.train(TEXTS, size=320, limit=12)


def test_words_of_the_archive_are_few_tokens(vocabulary):
    assert len(vocabulary) <= 320
    assert (vocabulary.ids(["pleural effusion"]) >= 0).sum() <= 3
    assert torch.equal(vocabulary.ids(["PLEURAL Effusion"]), vocabulary.ids(["pleural effusion"]))


def test_any_text_can_be_written_and_read_back(vocabulary):
    text = "épa ¿"
    assert vocabulary.tokenizer.decode(vocabulary.ids([text])[0].tolist()).strip() == text


def test_padding_and_blank_texts(vocabulary):
    ids = vocabulary.ids(["No pleural effusion.", "", "  ", "heart"])
    assert ids.dtype == torch.int64
    assert (ids[1:3] == -1).all()
    assert ids[3, 0] >= 0
    assert ids[3, -1] == -1
    assert vocabulary.ids(["", ""]).shape == (2, 1)


def test_json_round_trip(vocabulary):
    again = Vocabulary.from_json(vocabulary.to_json(), vocabulary.limit)
    assert torch.equal(again.ids(TEXTS[:3]), vocabulary.ids(TEXTS[:3]))


def test_training_twice_gives_the_same_vocabulary(vocabulary):
    assert Vocabulary.train(TEXTS, size=320, limit=12).to_json() == vocabulary.to_json()


def test_too_long_is_one_sentence_naming_the_limit(vocabulary):
    long = "the heart is enlarged " * 10
    with pytest.raises(UserError, match="this inpainter reads 12; shorten it to about"):
        vocabulary.ids(["short", long])
    assert vocabulary.ids(["short", long], cut=True).shape == (2, 12)
    with pytest.raises(UserError, match="256"):
        Vocabulary.train(TEXTS, size=100)


def test_encoder_reads_order_and_ignores_padding():
    torch.manual_seed(0)
    encoder = TextEncoder(30, width=16, depth=2, heads=2, limit=8).eval()
    states, counts = encoder(torch.tensor([[3, 4, 5, -1, -1]]))
    assert states.shape == (1, 6, 16)
    assert counts.tolist() == [[True, True, True, True, False, False]]
    short, _ = encoder(torch.tensor([[3, 4, 5]]))
    torch.testing.assert_close(states[:, :4], short, atol=1e-5, rtol=1e-5)
    other, _ = encoder(torch.tensor([[4, 3, 5, -1, -1]]))
    assert (states - other)[:, 0].abs().max() > 1e-3


def test_every_layer_has_its_own_initial_weights():
    first, second = TextEncoder(30, 16, 2, 2).layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_one_vector_a_text(vocabulary):
    torch.manual_seed(0)
    encoder = TextEncoder(320, 16, 1, 2, limit=12).eval()
    together = embed_texts(encoder, vocabulary, TEXTS[:3], batch_size=2)
    alone = torch.cat([embed_texts(encoder, vocabulary, [text]) for text in TEXTS[:3]])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
