import lightning as L
import pytest
import torch
from torch import nn

from cxrsynth.errors import UserError
from cxrsynth.inpainting import Condition, InpaintingTask, load_inpainter
from cxrsynth.inpainting.ema import ExponentialMovingAverage

TINY = {"size": 16, "channels": [8, 16], "attention": [False, False], "head_channels": 8, "norm_groups": 4}


class Batches(torch.utils.data.Dataset):
    """Bright squares: finding 0 lies left, finding 1 right, healthy images are flat."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        finding = torch.arange(8) % 3 - 1
        place = torch.zeros(8, 1, 32, 32)
        place[finding == 0, :, 10:20, 4:12] = 1
        place[finding == 1, :, 10:20, 20:28] = 1
        image = (0.4 + 0.4 * place + 0.02 * torch.randn(8, 1, 32, 32, generator=generator)).clamp(0, 1)
        target = torch.stack([finding == 0, finding == 1], 1).float()
        return {"image": image, "target": target, "map": place, "finding": finding}


def trainer(folder, **options) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return L.Trainer(**{**quiet, "default_root_dir": folder, "max_epochs": 1, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("inpainting")
    task, loader = InpaintingTask(["left", "right"], **TINY, warmup=2), torch.utils.data.DataLoader(Batches(), None)
    run = trainer(folder, enable_checkpointing=False)
    run.fit(task, loader, loader)
    run.save_checkpoint(folder / "inpainting.ckpt")
    return task.eval(), folder / "inpainting.ckpt", run.callback_metrics


def test_average_follows_the_weights():
    module = nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(module, decay=0.9)
    expected = module.weight.item()
    for count in range(30):
        module.weight.data.fill_(float(count))
        average.update(module)
        decay = min(0.9, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * count
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert not average.module.weight.requires_grad


def test_fit_logs_losses_and_moves_the_average(trained):
    task, _, metrics = trained
    assert {"train/loss", "val/loss"} <= set(metrics)
    assert torch.isfinite(metrics["val/loss"])
    assert int(task.average.updates) == 4
    pairs = zip(task.velocity.parameters(), task.average.module.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_validation_loss_is_the_same_every_time(trained, tmp_path):
    task = trained[0]
    loader = torch.utils.data.DataLoader(Batches(), None)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(trainer(tmp_path).validate(task, loader, verbose=False)[0]["val/loss"])
    assert losses[0] == losses[1]


def test_checkpoint_round_trip(trained):
    task, path, _ = trained
    again = load_inpainter(path)
    assert not again.training
    assert again.hparams["findings"] == ["left", "right"]
    batch = Batches()[0]
    condition = Condition.from_names([["left"]] * 8, ["left", "right"])
    painted = [t.inpaint(batch["image"], batch["map"], condition, seeds=range(8), steps=2) for t in (task, again)]
    assert torch.equal(*painted)


def test_the_average_paints_not_the_last_weights(trained):
    task, path, _ = trained
    other = load_inpainter(path)
    with torch.no_grad():
        for parameter in other.velocity.parameters():
            parameter.zero_()
    batch = Batches()[0]
    request = (batch["image"], batch["map"], Condition.none(8, 2))
    assert torch.equal(
        task.inpaint(*request, seeds=range(8), steps=2), other.inpaint(*request, seeds=range(8), steps=2)
    )


def test_predict_step_paints_a_batch(trained):
    task = trained[0]
    batch = Batches()[0]
    request = {"image": batch["image"], "region": batch["map"], "findings": torch.zeros(8, 2), "seed": list(range(8))}
    painted = task.predict_step(request, 0)
    assert torch.equal(painted[batch["map"] == 0], batch["image"][batch["map"] == 0])


@pytest.mark.parametrize("content", [None, b"not a checkpoint", {"state_dict": {}}])
def test_foreign_files_are_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "inpainting.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match="checkpoint"):
        load_inpainter(path)


@pytest.mark.slow
def test_a_short_training_follows_the_condition(tmp_path):
    """The finding asked for appears, and none when none is asked, in images where it never was."""
    torch.manual_seed(0)
    task = InpaintingTask(
        ["left", "right"], **TINY, lr=3e-3, warmup=10, regions={"attention": 0.7, "blob": 0.3}, share=[0.9, 1.0]
    )
    loader = torch.utils.data.DataLoader(Batches(), None)
    trainer(tmp_path, max_epochs=60, enable_checkpointing=False, limit_val_batches=0).fit(task, loader)
    image = (0.4 + 0.02 * torch.randn(8, 1, 32, 32)).clamp(0, 1)
    region = torch.zeros_like(image)
    region[..., 10:20, 4:12] = 1
    means = []
    for names in (["left"], []):
        condition = Condition.from_names([names] * 8, ["left", "right"])
        painted = task.eval().inpaint(image, region, condition, seeds=range(8))
        means.append(painted[region == 1].mean().item())
    assert means[0] - means[1] > 0.2
