from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cxrsynth.errors import UserError
from cxrsynth.inpainting import Condition, InpaintingTask, load_inpainter
from cxrsynth.inpainting.callbacks import SampleGrid
from cxrsynth.inpainting.ema import ExponentialMovingAverage

TINY = {"size": 16, "channels": [8, 16], "attention": [False, False], "head_channels": 8, "norm_groups": 4}


class Batches(torch.utils.data.Dataset):
    """Bright squares: finding 0 lies left, finding 1 right, healthy images are flat; women's images are darker."""

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
        female = torch.rand(8, generator=generator) < 0.5
        image = image * torch.where(female, 0.7, 1.0).view(8, 1, 1, 1)
        return {
            "image": image,
            "target": target,
            "map": place,
            "finding": finding,
            "image_id": [f"{index}_{row}" for row in range(8)],
            "sex": ["F" if f else "M" for f in female],
            "view": ["PA"] * 8,
            "age": torch.full((8,), 50.0),
            "text": [""] * 8,
        }


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


FIELDS = ["text", "view", "sex", "age"]
GUIDED = {**TINY, "fields": FIELDS, "vocabulary": 400, "text_width": 16, "text_depth": 1}
DIT = {"size": 16, "network": "dit", "dim": 32, "depth": 1, "num_heads": 2, "patch": 4}


@pytest.mark.parametrize("network", [{}, DIT])
def test_one_checkpoint_for_every_field(tmp_path, network):
    torch.manual_seed(0)
    task, loader = (
        InpaintingTask(["left", "right"], **{**GUIDED, **network}),
        torch.utils.data.DataLoader(Batches(), None),
    )
    run = trainer(tmp_path, enable_checkpointing=False)
    run.fit(task, loader, loader)
    assert {f"val/sensitivity/{name}" for name in ("findings", *FIELDS)} <= set(run.callback_metrics)
    run.save_checkpoint(tmp_path / "inpainting.ckpt")
    again = load_inpainter(tmp_path / "inpainting.ckpt")
    batch = Batches()[0]
    painted = []
    for one in (task.eval(), again):
        condition = one.condition(8, ["left"], text="No right.", view="AP", sex="M", age=70)
        assert all(condition.known(name).all() for name in ("findings", *FIELDS))
        weights = {"findings": 3.0, "text": 2.0}
        painted.append(one.inpaint(batch["image"], batch["map"], condition, seeds=range(8), steps=2, guidance=weights))
    assert torch.equal(*painted)
    assert torch.equal(painted[0][batch["map"] == 0], batch["image"][batch["map"] == 0])


class CutOff(L.Callback):
    """Ends a training after some epochs, as if it had been killed."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


def test_a_training_that_was_cut_off_ends_at_the_same_weights(tmp_path):
    path, loader = tmp_path / "cut.ckpt", torch.utils.data.DataLoader(Batches(), None)
    ends = []
    for attempts in ([3], [1, 3]):
        for number, stop in enumerate(attempts):
            torch.manual_seed(number)  # a second attempt starts from other weights and another state of chance
            task = InpaintingTask(["left", "right"], **GUIDED)
            run = trainer(tmp_path, max_epochs=3, enable_checkpointing=False, callbacks=[CutOff(stop)])
            run.fit(task, loader, ckpt_path=path if number else None, weights_only=True)
            assert run.global_step == 4 * stop
            run.save_checkpoint(path)
        ends.append(task.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


def test_checkpoints_of_findings_alone_keep_their_names():
    names = set(InpaintingTask(["left", "right"], **TINY).state_dict())
    assert {"velocity.embed.states", "average.module.embed.states", "average.updates"} <= names
    assert {name.split(".")[1] for name in names if name.startswith("velocity.")} == {"unet", "embed"}
    assert not any("text" in name or "age" in name.split(".")[2:3] for name in names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "gan"}, "gan"),
        ({"size": 15}, "multiples of 2"),
        ({**DIT, "size": 18}, "multiples of 4"),
        ({**DIT, "dim": 30}, "dim is 30"),
        ({"fields": ["colour"]}, "colour"),
        ({"drop": {"colour": 0.5}}, "colour"),
        ({"text_encoder": "somewhere"}, "fields does not name text"),
        ({"times": "cosine"}, "cosine"),
        ({"guidance": {"colour": 2.0}}, "colour"),
        ({"regions": {"nowhere": 1.0}}, "nowhere"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(options, words):
    with pytest.raises(UserError, match=words) as error:
        InpaintingTask(["left", "right"], **{**TINY, **options})
    assert "\n" not in str(error.value)


def test_a_compiled_training_learns_the_same(tmp_path):
    losses = []
    for options in ({}, {"compile": True, "recompute": True}):
        torch.manual_seed(0)
        task, loader = (
            InpaintingTask(["left", "right"], **{**DIT, **options}),
            torch.utils.data.DataLoader(Batches(), None),
        )
        if options:
            task.velocity.compile = partial(task.velocity.compile, backend="eager")  # no compiler needed in the test
        run = trainer(tmp_path, enable_checkpointing=False)
        run.fit(task, loader)
        losses.append(run.callback_metrics["train/loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_sample_grid_shows_source_region_and_paintings(tmp_path):
    torch.manual_seed(0)
    task, loader = InpaintingTask(["left", "right"], **TINY), torch.utils.data.DataLoader(Batches(), None)
    grid = SampleGrid(images=3, steps=2)
    trainer(tmp_path, enable_checkpointing=False, callbacks=[grid]).fit(task, loader, loader)
    (path,) = tmp_path.rglob("samples/step_*.png")
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    side = 16 + 2
    assert pixels.shape == (3 * side, (2 + 3) * side)  # source, region, healthy and the two findings
    examples = task.draw(Batches()[0], torch.Generator().manual_seed(0))
    source = ((examples.image[0, 0] + 1) / 2 * 255).round().byte().numpy()
    assert (pixels[:16, :16] == source).all()
    outside = examples.region[0, 0].numpy() == 0
    assert (pixels[:16, 2 * side : 2 * side + 16][outside] == source[outside]).all()


def test_the_sample_grid_takes_the_inpainters_own_steps_unless_told():
    task = InpaintingTask(["left", "right"], **TINY, steps=3).eval()
    asked = []
    task.paint = lambda image, *rest, steps, **options: asked.append(steps) or image
    for given in (None, 2):
        SampleGrid(images=1, findings=1, steps=given).grid(task, Batches()[0])
    assert asked == [3, 3, 2, 2]


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
