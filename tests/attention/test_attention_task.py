import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from cxrsynth.attention.cache import FeatureCache
from cxrsynth.attention.task import GLoRITask
from cxrsynth.encoder import ViT, load_encoder
from cxrsynth.errors import UserError

ARCHITECTURE = {
    "image_size": 32,
    "patch_size": 8,
    "dim": 32,
    "depth": 2,
    "num_heads": 2,
    "ffn": "mlp",
    "layer_scale": None,
}
HEAD = {"image_size": 32, "blocks": 2, "dim": 32, "num_heads": 2, "ffn_hidden": 32}
FINDINGS = ["Left", "Right"]


def make(**changes) -> GLoRITask:
    return GLoRITask(**{"findings": FINDINGS, "architecture": ARCHITECTURE} | HEAD | changes)


def batches(count=8):
    """A bright patch on the left, on the right, on both or none; some targets unknown."""
    made = []
    for _ in range(count):
        target = (torch.rand(16, 2) > 0.5).float()
        image = 0.2 * torch.rand(16, 1, 32, 32)
        for column, x in enumerate((0, 24)):
            image[:, 0, 8:16, x : x + 8] += 0.6 * target[:, column, None, None]
        target[torch.rand(16, 2) > 0.9] = torch.nan
        made.append({"image": image, "target": target, "image_id": [str(i) for i in range(16)]})
    return made


def fit(task, epochs=6):
    trainer = L.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(task, DataLoader(batches(), batch_size=None), DataLoader(batches(2), batch_size=None))
    return trainer


def test_training_finds_the_patches_and_the_checkpoint_is_enough(tmp_path):
    encoder = ViT(**ARCHITECTURE)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    with pytest.raises(UserError, match="num_heads"):
        make(encoder=str(tmp_path / "encoder.pth"), architecture=None)
    task = make(finetune="full", encoder_lr=3e-3, learning_rates=[3e-3])
    trainer = fit(task, epochs=12)
    assert trainer.callback_metrics["val/auroc"] > 0.9
    assert trainer.callback_metrics["train/loss"] < 0.4

    trainer.save_checkpoint(tmp_path / "task.ckpt")
    loaded = GLoRITask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    image = batches(1)[0]["image"]
    assert loaded.training  # and yet it answers as in eval mode
    torch.testing.assert_close(loaded(image), task.eval()(image))
    maps = loaded.maps(image)
    torch.testing.assert_close(maps, task.maps(image))
    assert loaded.training
    assert maps.shape == (16, 2, 4, 4)
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(16, 2))

    alone = load_encoder(tmp_path / "task.ckpt")
    torch.testing.assert_close(alone(image, 2)[0][0], task.encoder(image, 2)[0][0])


def test_frozen_encoder_stays_and_the_best_rate_is_kept():
    task = make(learning_rates=[1e-7, 1e-2])
    before = {key: value.clone() for key, value in task.encoder.state_dict().items()}
    fit(task)
    assert all(torch.equal(value, before[key]) for key, value in task.encoder.state_dict().items())
    assert int(task.best) == 1
    assert task.head is task.heads[1]


def test_low_rank_changes_learn_and_are_merged_for_others(tmp_path):
    task = make(finetune="lora", lora_rank=2, encoder_lr=3e-3, learning_rates=[3e-3])
    frozen = task.encoder.blocks[0].attn.qkv.parametrizations.weight.original.clone()
    trainer = fit(task, epochs=2)
    task.eval()
    layer = task.encoder.blocks[0].attn.qkv
    assert torch.equal(layer.parametrizations.weight.original, frozen)
    assert not torch.equal(layer.weight, frozen)
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    image = torch.rand(2, 1, 32, 32)
    alone = load_encoder(tmp_path / "task.ckpt")
    torch.testing.assert_close(alone(image, 2)[0][0], task.encoder(image, 2)[0][0])
    loaded = GLoRITask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    torch.testing.assert_close(loaded(image), task(image))


def test_cached_features_are_the_encoder_s_and_are_computed_once(tmp_path):
    task = make(cache=str(tmp_path))
    cache = FeatureCache(tmp_path, task.encoder, 2, 32)
    batch = batches(1)[0]
    image, ids = batch["image"], batch["image_id"]
    part = cache.features(image[:5], ids[:5])
    whole = cache.features(torch.cat([torch.zeros(5, 1, 32, 32), image[5:]]), ids)  # the first five come from the disk
    expected = task.encoder(image, 2)
    for (p, c), (q, d), (r, _) in zip(whole, expected, part, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(c, d, rtol=2e-3, atol=2e-3)
        assert torch.equal(p[:5], r)
    files = list(cache.folder.glob("*.npy"))
    assert len(files) == 16
    assert files[0].stat().st_size - cache.bytes_per_image == 128  # the header of a .npy file
    other = FeatureCache(tmp_path, ViT(**ARCHITECTURE), 2, 32)
    assert other.folder != cache.folder


def test_training_from_the_cache(tmp_path):
    task = make(cache=str(tmp_path), learning_rates=[1e-2])
    trainer = fit(task, epochs=3)
    assert len(list(tmp_path.glob("*/*.npy"))) == 16  # the toy's images share their ids
    assert trainer.callback_metrics["val/auroc"] >= 0


def test_dropout_is_off_at_inference_and_on_in_training():
    task = make(dropout=0.5).train()
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(task.maps(image), task.maps(image))
    features = task.encoder(image, 2)
    assert not torch.equal(task.head(features), task.head(features))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"findings": []}, "findings is empty"),
        ({"encoder": "x.pth"}, "give one of them"),
        ({"finetune": "some"}, "finetune is 'some'"),
        ({"loss": "mse"}, "loss is 'mse'"),
        ({"finetune": "full", "learning_rates": [1e-3, 1e-4]}, "learning_rates"),
        ({"finetune": "full", "cache": "x"}, "cache is given"),
        ({"image_size": 30}, "multiples of the patch size"),
        ({"num_heads": 3}, "num_heads is 3"),
    ],
)
def test_mistakes_are_named(changes, match):
    with pytest.raises(UserError, match=match):
        make(**changes)
