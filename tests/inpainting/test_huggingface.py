"""With a tiny BERT that is made here, of random weights; nothing is fetched."""

import copy

import lightning as L
import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting.text import embed_texts

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (pip install 'cxrsynth[text]')"
)

from cxrsynth.inpainting.condition import Condition  # noqa: E402
from cxrsynth.inpainting.embedder import ConditionEmbedder  # noqa: E402
from cxrsynth.inpainting.huggingface import PretrainedText, read_vocabulary  # noqa: E402
from cxrsynth.inpainting.task import InpaintingTask, load_inpainter  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "pleural", "effusion", "the", "heart", "is", "large", "."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("bert")
    (out / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(out / "vocab.txt")).save_pretrained(out)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(out)
    return out


def test_the_vocabulary_is_the_encoders_own(folder):
    vocabulary = read_vocabulary(folder, 8)
    ids = vocabulary.ids(["No pleural effusion.", ""])
    assert ids[0].tolist() == [WORDS.index(word) for word in ("[CLS]", "no", "pleural", "effusion", ".", "[SEP]")]
    assert (ids[1] == -1).all()
    with pytest.raises(UserError, match="reads 8"):
        vocabulary.ids(["the heart is large . " * 3])


def test_states_are_those_of_the_model_and_padding_does_not_matter(folder):
    encoder, vocabulary = PretrainedText(folder).eval(), read_vocabulary(folder)
    ids = vocabulary.ids(["No pleural effusion.", "heart"])
    states, counts = encoder(ids)
    assert counts.sum(1).tolist() == [6, 3]
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    for row in range(2):
        alone = model(ids[row : row + 1, : counts[row].sum()]).last_hidden_state
        torch.testing.assert_close(states[row : row + 1, counts[row]], alone, atol=1e-5, rtol=1e-5)
    together = embed_texts(encoder, vocabulary, ["heart", "no effusion"])
    torch.testing.assert_close(together[:1], embed_texts(encoder, vocabulary, ["heart"]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_what_learns(folder, tuning):
    torch.manual_seed(0)
    embed = ConditionEmbedder(2, 8, 8, ["text"], text=PretrainedText(folder, tuning)).train()
    ids = read_vocabulary(folder).ids(["no effusion", "", "the heart is large"])
    condition = Condition(torch.zeros(3, 2), text=ids)
    embed(condition).vector.square().sum().backward()
    model = dict(embed.text.encoder.named_parameters())
    learns = {name for name, p in model.items() if p.grad is not None and p.grad.abs().sum() > 0}
    if tuning == "frozen":
        assert not learns
    elif tuning == "lora":
        assert learns == {name for name in model if name.endswith("0.up")}  # the other half follows once this moved
        assert {name for name, p in model.items() if p.requires_grad} == {
            n for n in model if n[-4:] in ("0.up", "down")
        }
        base = ConditionEmbedder(2, 8, 8, ["text"], text=PretrainedText(folder)).text.encoder
        torch.testing.assert_close(embed.text.encoder(ids)[0], base(ids)[0])  # nothing is changed at first
    else:
        assert {name for name, p in model.items() if p.requires_grad} == set(model)
        assert len(learns) > len(model) / 2
    assert torch.equal(copy.deepcopy(embed)(condition).vector, embed(condition).vector)


def batch() -> dict:
    finding = torch.tensor([0, -1, 0, -1])
    return {
        "image": torch.rand(4, 1, 16, 16),
        "target": (finding == 0).float()[:, None],
        "map": (finding == 0).float().view(4, 1, 1, 1).expand(4, 1, 16, 16),
        "finding": finding,
        "text": ["pleural effusion", "no effusion"] * 2,
    }


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_training_and_loading_with_it(folder, tmp_path, tuning):
    torch.manual_seed(0)
    network = {"size": 16, "network": "dit", "dim": 16, "depth": 1, "num_heads": 2, "patch": 4}
    text = {"fields": ["text"], "text_encoder": str(folder), "text_tuning": tuning, "text_lr": 1e-2, "written": 0.0}
    task = InpaintingTask(["Effusion"], **network, **text, regions={"full": 1.0}, warmup=1, drop_all=0.0)
    before = {name: p.clone() for name, p in task.velocity.embed.text.encoder.named_parameters()}
    run = L.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    run.fit(task, torch.utils.data.DataLoader([batch()] * 4, None))
    moved = {n for n, p in task.velocity.embed.text.encoder.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert tuning == "full" or not any("original" in name for name in moved)
    run.save_checkpoint(tmp_path / "inpainting.ckpt")
    again = load_inpainter(tmp_path / "inpainting.ckpt")
    wishes = [one.condition(text="No pleural effusion.") for one in (task, again)]
    assert torch.equal(wishes[0].text, wishes[1].text)
    vectors = [one.painter.embed(wish).vector for one, wish in zip((task.eval(), again), wishes, strict=True)]
    assert torch.equal(*vectors)


def test_bad_folders_are_refused_in_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        PretrainedText(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no encoder"):
        PretrainedText(tmp_path)
    with pytest.raises(UserError, match="no tokenizer"):
        read_vocabulary(tmp_path)
    with pytest.raises(UserError, match="text_tuning is 'half'"):
        PretrainedText(folder, "half")
