import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy

from cxrsynth.encoder import load_encoder
from cxrsynth.encoder.optimisation import parameter_groups, set_rates, update_average
from cxrsynth.encoder.schedules import cosine, linear
from cxrsynth.encoder.task import DINOTask
from cxrsynth.errors import UserError

SCRIPT = Path(__file__).with_name("dino_trace.py")
spec = importlib.util.spec_from_file_location("dino_trace", SCRIPT)
assert spec is not None
assert spec.loader is not None
dino_trace = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dino_trace)
make_task, train = dino_trace.make_task, dino_trace.train


def test_training_reduces_the_loss_and_the_checkpoint_is_an_encoder(tmp_path):
    task = make_task(momentum=(0.9, 1.0))
    first = {key: value.clone() for key, value in task.teacher.state_dict().items()}
    trainer, losses = train(task, epochs=8)
    assert sum(losses[-6:]) < 0.95 * sum(losses[:6])
    assert any(not torch.equal(value, first[key]) for key, value in task.teacher.state_dict().items())
    trainer.save_checkpoint(tmp_path / "encoder.ckpt")
    loaded = load_encoder(tmp_path / "encoder.ckpt")
    image = torch.rand(2, 1, 32, 48)
    torch.testing.assert_close(loaded(image, 1)[0][0], task.eval()(image)[0][0])
    again = DINOTask.load_from_checkpoint(tmp_path / "encoder.ckpt", weights_only=True)
    torch.testing.assert_close(again.eval()(image)[0][1], task(image)[0][1])


@pytest.mark.parametrize(("centering", "drop_path"), [("sinkhorn", 0.4), ("centre", 0.0)])
def test_resumed_training_is_the_uninterrupted_one(tmp_path, centering, drop_path):
    changes = {"centering": centering, "drop_path": drop_path}
    _, whole = train(make_task(**changes), epochs=2)

    class Kill(L.Callback):
        def on_train_epoch_end(self, trainer, task):
            trainer.save_checkpoint(tmp_path / "half.ckpt")
            raise KeyboardInterrupt

    killed = make_task(**changes)
    trace = dino_trace.Trace()
    trainer = L.Trainer(
        max_epochs=2,
        callbacks=[trace, Kill()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(killed, torch.utils.data.DataLoader(dino_trace.batches(), batch_size=None))
    resumed = make_task(**changes)
    resumed.__dict__["resume_from"] = str(tmp_path / "half.ckpt")
    _, rest = train(resumed, epochs=2)
    assert trace.losses + rest == pytest.approx(whole, rel=1e-6)


def test_half_precision_and_recomputed_activations_train_alike():
    _, whole = train(make_task(), epochs=1)
    _, recomputed = train(make_task(checkpointing=True), epochs=1)
    assert recomputed == pytest.approx(whole, rel=1e-5)
    _, half = train(make_task(), epochs=1, precision="bf16-mixed")
    assert half[0] == pytest.approx(whole[0], rel=0.02)
    assert all(0 < loss < 1.3 * max(whole) for loss in half)


@pytest.mark.slow
def test_two_processes_follow_the_trace_of_one(tmp_path):
    _, alone = train(make_task(), epochs=1)
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True, capture_output=True, timeout=240)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    together = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert together == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_sharded_weights_follow_the_trace_of_one_process(tmp_path):
    """FSDP2 through the Trainer, on the CPU: what a GPU adds is speed, and memory that a CPU cannot show."""
    task = make_task()
    _, alone = train(task, epochs=1)
    script = str(SCRIPT.with_name("dino_sharded.py"))
    subprocess.run([sys.executable, script, str(tmp_path)], check=True, capture_output=True, timeout=240)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    together = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert together == pytest.approx(alone, rel=1e-4)
    assert [part["type"] for part in (first, second)] == ["DTensor", "DTensor"]
    assert first["held"] == second["held"] == first["all"] / 2
    # the checkpoint is whole, and the teacher in it is the one process's
    for name, weight in load_encoder(tmp_path / "sharded.ckpt").state_dict().items():
        torch.testing.assert_close(weight, task.teacher["backbone"].state_dict()[name], rtol=1e-3, atol=1e-4)


def test_continued_training_resizes_the_position_embedding(tmp_path):
    task = make_task()
    trainer, _ = train(task, epochs=1)
    trainer.save_checkpoint(tmp_path / "small.ckpt")
    larger = make_task(image_size=64, init=str(tmp_path / "small.ckpt"))
    backbone = larger.teacher["backbone"]
    torch.testing.assert_close(backbone.pos_embed, load_encoder(tmp_path / "small.ckpt").position(8, 8))
    with pytest.raises(UserError, match="depth=2"):
        make_task(depth=3, init=str(tmp_path / "small.ckpt"))


def test_rates_per_group():
    task = make_task()
    backbone, heads = task.student["backbone"], (task.student["dino_head"], task.student["ibot_head"])
    optimizer = torch.optim.AdamW(parameter_groups(backbone, heads, layer_decay=0.5, patch_lr=0.2))
    set_rates(optimizer, lr=1.0, weight_decay=0.3, freeze_last_layer=True)
    names = {id(p): n for n, p in task.student.named_parameters()}
    rates = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert rates["backbone.norm.weight"] == (1.0, 0.0)
    assert rates["backbone.blocks.1.attn.qkv.weight"] == (0.5, 0.3)
    assert rates["backbone.blocks.0.attn.qkv.bias"] == (0.25, 0.0)
    assert rates["backbone.patch_embed.proj.weight"] == pytest.approx((0.125 * 0.2, 0.3))
    assert rates["dino_head.mlp.0.weight"] == (1.0, 0.3)
    assert rates["dino_head.last_layer.parametrizations.weight.original1"] == (0.0, 0.3)
    trained = {n for n, p in task.student.named_parameters() if p.requires_grad}
    assert set(rates) == trained


def test_schedules():
    values = [cosine(step, 100, 1.0, 0.1, warmup=10) for step in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert values[9] == pytest.approx(1.0)
    assert values[55] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)
    assert [linear(s, 10, 0.04, 0.07) for s in (0, 5, 10, 50)] == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_teacher_is_a_moving_average():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.9 * a.weight.detach() + 0.1 * b.weight.detach()
    update_average(a, b, 0.9)
    torch.testing.assert_close(a.weight.detach(), expected)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="centering is 'none'"):
        make_task(centering="none")
    with pytest.raises(UserError, match="local_size is 20"):
        make_task(local_size=20)


def labelled(batch: dict) -> dict:
    """Every other image is flat: findings that an untrained encoder shows as well."""
    flat = torch.arange(len(batch["image"])) % 2 == 0
    image = torch.where(flat[:, None, None, None], 0.5 + 0.1 * (batch["image"] - 0.5), batch["image"])
    return batch | {"image": image, "target": torch.stack([flat, ~flat], 1).float()}


def test_probes_are_taught_by_training_images_and_asked_about_others():
    train_set = [labelled(batch) for batch in dino_trace.batches()]
    asked = [labelled({"image": torch.rand(16, 1, 40, 40), "image_id": [str(i) for i in range(16)]}) for _ in range(4)]
    trainer = L.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        num_sanity_val_steps=0,
    )
    trainer.fit(
        make_task(), torch.utils.data.DataLoader(train_set, batch_size=None), torch.utils.data.DataLoader(asked, None)
    )
    scores = trainer.callback_metrics
    assert 0.5 < scores["val/linear_auroc"] <= 1
    assert 0 <= scores["val/knn_auroc"] <= 1
    probe = next(callback for callback in trainer.callbacks if type(callback).__name__ == "EncoderProbe")
    assert len(probe._teach(trainer, trainer.lightning_module)[1]) == 48


def test_flat_sharding_is_refused():
    task = make_task()
    task.trainer = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(UserError, match=r"use .*ModelParallelStrategy"):
        task.setup("fit")
