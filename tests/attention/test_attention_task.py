import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from cxrsynth.attention import load_glori
from cxrsynth.attention.cache import FeatureCache
from cxrsynth.attention.maps import finding_map
from cxrsynth.attention.task import GLoRITask
from cxrsynth.attention.writer import MapWriter
from cxrsynth.data import CXRDataModule
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
    trainer = fit(task, epochs=20)
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
    head = load_glori(tmp_path / "task.ckpt")
    torch.testing.assert_close(head(alone(image, 2)), task(image))
    assert head.classes == ("Left", "Right")


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
    same = (task.encoder, 2, 32)
    cache = FeatureCache(tmp_path, *same)
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
    for other in (FeatureCache(tmp_path, ViT(**ARCHITECTURE), 2, 32), FeatureCache(tmp_path, *same, ["crop"])):
        assert other.folder != cache.folder
    assert FeatureCache(tmp_path, *same).folder == cache.folder


def test_features_above_the_budget_are_computed_on_the_fly(tmp_path):
    rows = ["image_id,path,labels,split"]
    for index in range(8):
        Image.fromarray(np.full((32, 32), 20 * index, np.uint8)).save(tmp_path / f"{index}.png")
        rows.append(f"i{index},{index}.png,{FINDINGS[index % 2]},{('train', 'val')[index // 4]}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    for gib, files in ((0.0, 0), (1.0, 8)):
        data = CXRDataModule(str(tmp_path / "metadata.csv"), 32, FINDINGS, batch_size=4)
        task = make(cache=str(tmp_path / "features"), cache_gib=gib)
        L.Trainer(max_steps=1, **quiet).fit(task, data)
        assert len(list(tmp_path.rglob("*.npy"))) == files


def test_training_from_the_cache(tmp_path):
    task = make(cache=str(tmp_path), learning_rates=[1e-2])
    trainer = fit(task, epochs=3)
    assert len(list(tmp_path.glob("*/*.npy"))) == 16  # the toy's images share their ids
    assert trainer.callback_metrics["val/auroc"] >= 0


def test_the_authors_head_is_used_as_it_is(shared, tmp_path):
    golden = shared / "golden" / "chexfound_small"
    if not golden.is_dir():
        pytest.skip("no golden files")
    expected = load_file(golden / "expected.safetensors")
    files = {"encoder": str(golden / "teacher_checkpoint.pth"), "head": str(golden / "glori.pth")}
    names = ["A", "B", "C", "D", "E"]
    options = {"num_heads": 4, "contrast": "stretch"}
    task = GLoRITask(names, **files, encoder_options=options, image_size=64, learning_rates=[1e-3, 1e-4])
    assert task.encoder.contrast == task.hparams["architecture"]["contrast"] == "stretch"
    with torch.no_grad():
        logits = task.heads[1].eval()(task.encoder.intermediate(expected["image"]))
    torch.testing.assert_close(logits, expected["logits"], rtol=1e-4, atol=1e-4)
    trainer = L.Trainer(logger=False, barebones=True)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    again = GLoRITask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    image = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(again(image), task(image))
    with pytest.raises(UserError, match="5 findings"):
        GLoRITask(["A"], **files, encoder_options=options, image_size=64)
    with pytest.raises(UserError, match="width 48, the encoder's have 32"):
        GLoRITask(names, architecture=ARCHITECTURE, head=files["head"], image_size=32)
    with pytest.raises(UserError, match="encoder_options has heads"):
        GLoRITask(names, **files, encoder_options={"heads": 4}, image_size=64)


def test_maps_on_demand():
    task, finer = make(), make(map_views=2)
    image = torch.rand(3, 1, 32, 32)
    every, heads = task.maps(image), task.maps(image, per_head=True)
    assert heads.shape == (3, 2, 2, 4, 4)
    assert finer.maps(image, ["Left"], per_head=True).shape == (3, 2, 1, 8, 8)
    torch.testing.assert_close(heads.mean(1), every)
    torch.testing.assert_close(task.maps(image, ["Right"]), every[:, 1:])
    with pytest.raises(UserError, match="finding 'Up' is unknown"):
        task.maps(image, ["Up"])


def test_predictions_are_written_a_map_a_finding(tmp_path):
    task = make()
    batch = batches(1)[0]
    loader = DataLoader([{key: value[:8] for key, value in batch.items()}], batch_size=None)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    for options in ({"findings": ["Right"], "size": 48, "gamma": 1.0}, {"per_head": True}):
        trainer = L.Trainer(callbacks=[MapWriter(str(tmp_path), **options)], **quiet)
        trainer.predict(task, loader, return_predictions=False)
    table = pd.read_csv(tmp_path / "probabilities.csv", dtype={"image_id": str})
    assert table["image_id"].tolist() == sorted(batch["image_id"][:8])
    expected = task(batch["image"][:8]).sigmoid().detach().numpy()
    np.testing.assert_allclose(table[FINDINGS].to_numpy(), expected, rtol=1e-4)
    names = {path.name for path in (tmp_path / "maps" / "3").iterdir()}
    assert names == {"Right.png", *(f"{finding}.{head}.png" for finding in FINDINGS for head in range(2))}
    map = np.asarray(Image.open(tmp_path / "maps" / "3" / "Right.png"))
    wanted = finding_map(task.maps(batch["image"][3:4], ["Right"]), (48, 48), gamma=1)[0, 0]
    np.testing.assert_allclose(map, 255 * wanted.detach().numpy(), atol=0.51)
    assert np.asarray(Image.open(tmp_path / "maps" / "3" / "Left.1.png")).shape == (4, 4)


def test_resumed_training_is_the_uninterrupted_one(tmp_path):
    """Dropout included: it follows from the seed and the place in the training."""
    changes = {"learning_rates": [1e-3, 1e-2], "dropout": 0.3}
    weights = make(**changes).state_dict()
    start = {name: value.clone() for name, value in weights.items()}
    loaders = (DataLoader(batches(3), batch_size=None), DataLoader(batches(1), batch_size=None))

    class Kill(L.Callback):
        def on_train_epoch_end(self, trainer, task):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                raise KeyboardInterrupt

    def run(ckpt_path=None, callbacks=()):
        torch.rand(1 + len(callbacks))  # what happened before a training does not matter
        task = make(**changes)
        task.load_state_dict(start)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        trainer = L.Trainer(max_epochs=4, accelerator="cpu", callbacks=list(callbacks), **quiet)
        trainer.fit(task, *loaders, ckpt_path=ckpt_path, weights_only=True)
        return task.state_dict()

    whole = run()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(callbacks=[Kill()])
    resumed = run(ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


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
