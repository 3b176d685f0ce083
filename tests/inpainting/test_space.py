"""Latent mode: what the flow sees, what is put back, and that the checkpoint is one file."""

from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from cxrsynth.autoencoder import Autoencoder, save_autoencoder
from cxrsynth.cli import main
from cxrsynth.data.phantom import write_phantom
from cxrsynth.errors import UserError
from cxrsynth.inpainting import Condition, InpaintingTask, load_inpainter
from cxrsynth.inpainting.export import weights_of
from cxrsynth.inpainting.inpaint import inpaint
from cxrsynth.inpainting.path import flow_loss
from cxrsynth.inpainting.space import Latents, build_space
from cxrsynth.inpainting.weights_file import write_weights_file

SIZES = {"channels": (8, 8, 8), "latent_channels": 3, "norm_groups": 4}
TINY = {"size": 32, "channels": [8, 16], "attention": [False, True], "head_channels": 8, "norm_groups": 4}
DIT = {"size": 32, "network": "dit", "dim": 32, "depth": 1, "num_heads": 2, "patch": 2}


def autoencoder(scale: float = 2.0) -> Autoencoder:
    torch.manual_seed(0)
    network = Autoencoder(**SIZES).eval()
    network.scale.fill_(scale)
    return network


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return save_autoencoder(autoencoder(), tmp_path_factory.mktemp("autoencoder") / "autoencoder.safetensors")


def scene_of(space: Latents, region: torch.Tensor, image: torch.Tensor | None = None):
    coordinates = torch.linspace(-1, 1, 32).expand(1, 2, 32, 32)
    return space.enter(torch.rand(1, 1, 32, 32) if image is None else image, region, coordinates)


def test_a_latent_is_painted_where_any_of_its_pixels_lies_in_the_region():
    region = torch.zeros(1, 1, 32, 32)
    region[..., 3, 8] = 1
    region[..., 12:17, 20:24] = 1
    scene = scene_of(Latents(autoencoder(), {}), region)
    expected = torch.zeros(8, 8)
    expected[0, 2] = 1
    expected[3:5, 5] = 1
    assert torch.equal(scene.region[0, 0], expected)
    assert scene.state.shape == (1, 3, 8, 8)
    assert float(scene.coordinates[0, 0, 0, 1]) == pytest.approx(float(torch.linspace(-1, 1, 32)[4:8].mean()), abs=1e-6)


def test_latents_outside_the_region_do_not_tell_what_lies_inside():
    """A decoder sees far, an encoder too: both give a lesion away beside it."""
    space, region = Latents(autoencoder(), {}), torch.zeros(1, 1, 32, 32)
    region[..., 9:20, 9:20] = 1
    image = torch.rand(1, 1, 32, 32)
    other = torch.where(region > 0, torch.rand_like(image), image)
    first, second = (scene_of(space, region, one) for one in (image, other))
    outside = (first.region == 0).expand_as(first.state)
    assert torch.equal(first.state[outside], second.state[outside])
    assert not torch.equal(first.state[~outside], second.state[~outside])


def test_what_is_put_back_is_the_change_of_what_the_decoder_sees():
    network = autoencoder()
    space, image, region = Latents(network, {}), 0.2 * torch.rand(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    scene = scene_of(space, region, image)
    own = network.encode((image + 1) / 2)
    end = own + 0.05 * torch.randn_like(own)
    change = network.decode(end) - network.decode(own)
    torch.testing.assert_close(space.leave(end, scene), (image + 2 * change).clamp(-1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(space.leave(own, scene), image, atol=1e-6, rtol=0)


def test_the_loss_is_a_mean_over_painted_numbers_of_any_channels():
    velocity, target, region = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), (torch.rand(2, 1, 4, 4) < 0.5).float()
    inside = region.expand_as(velocity) > 0
    torch.testing.assert_close(flow_loss(velocity, target, region), (velocity - target)[inside].square().mean())


class Batches(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        finding = torch.arange(4) % 3 - 1
        place = torch.zeros(4, 1, 48, 48)
        place[finding == 0, :, 10:30, 4:20] = 1
        place[finding == 1, :, 10:30, 28:44] = 1
        target = torch.stack([finding == 0, finding == 1], 1).float()
        image = (0.4 + 0.4 * place + 0.02 * torch.randn(4, 1, 48, 48, generator=generator)).clamp(0, 1)
        return {"image": image, "target": target, "map": place, "finding": finding}


def fit(task: InpaintingTask, stop: int = 2, **options) -> L.Trainer:
    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch + 1 == stop

    trainer = L.Trainer(
        **{"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"},
        enable_checkpointing=False,
        max_epochs=2,
        callbacks=[Stop()],
    )
    loader = torch.utils.data.DataLoader(Batches(), None)
    trainer.fit(task, loader, loader, weights_only=True, **options)
    return trainer


@pytest.mark.parametrize("network", [TINY, DIT])
def test_one_checkpoint_paints_without_the_file_of_its_autoencoder(tmp_path, network):
    path = save_autoencoder(autoencoder(), tmp_path / "autoencoder.safetensors")
    torch.manual_seed(0)
    task = InpaintingTask(["left", "right"], **network, latent=str(path))
    before = {name: value.clone() for name, value in task.space.state_dict().items()}
    trainer = fit(task)
    assert all(torch.equal(before[name], value) for name, value in task.space.state_dict().items())  # frozen
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    trainer.save_checkpoint(tmp_path / "inpainting.ckpt")
    path.unlink()
    again = load_inpainter(tmp_path / "inpainting.ckpt")
    assert list(again.hparams["latent"]["sha256"]) == ["autoencoder.safetensors"]
    batch = Batches()[0]
    asked = Condition.from_names([["left"]] * 4, ["left", "right"])
    painted = [t.inpaint(batch["image"], batch["map"], asked, seeds=range(4), steps=2) for t in (task.eval(), again)]
    assert torch.equal(*painted)
    outside = batch["map"] == 0
    assert torch.equal(painted[0][outside], batch["image"][outside])
    assert (painted[0][~outside] != batch["image"][~outside]).float().mean() > 0.9


def test_a_training_that_was_cut_off_ends_at_the_same_weights(file, tmp_path):
    ends = []
    for attempts in ([2], [1, 2]):
        for number, stop in enumerate(attempts):
            torch.manual_seed(number)
            task = InpaintingTask(["left", "right"], **TINY, latent=str(file))
            fit(task, stop, ckpt_path=tmp_path / "cut.ckpt" if number else None).save_checkpoint(tmp_path / "cut.ckpt")
        ends.append(task.state_dict())
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


def test_strength_and_seeds_work_on_latents(file):
    task = InpaintingTask(["left", "right"], **TINY, latent=str(file)).eval()
    batch = Batches()[0]
    request = (batch["image"], batch["map"], Condition.none(4, 2))
    same = task.inpaint(*request, seeds=range(4), steps=1, strength=0.0)
    torch.testing.assert_close(same, batch["image"], atol=1e-5, rtol=0)
    one, other = (task.inpaint(*request, seeds=[seed] * 4, steps=1, rescale=0.5) for seed in (1, 2))
    assert not torch.equal(one, other)


def test_the_function_takes_the_space_of_the_field(file):
    task = InpaintingTask(["left", "right"], **TINY, latent=str(file)).eval()
    batch = Batches()[0]
    request = (batch["image"], batch["map"], Condition.none(4, 2))
    options = {"size": 32, "seeds": range(4), "steps": 1}
    made = inpaint(*request, velocity=task.painter, space=task.space, **options)
    assert torch.equal(made, task.inpaint(*request, **options, guidance=2.0))


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        ("nowhere.ckpt", "nowhere.ckpt"),
        ({"scale": 1.0}, "give an autoencoder's file"),
        ({"path": "x", "colour": 1}, "give an autoencoder's file"),
    ],
)
def test_bad_spaces_are_refused_in_one_sentence(latent, words):
    with pytest.raises(UserError, match=words) as error:
        build_space(latent)
    assert "\n" not in str(error.value)


def test_an_unknown_scale_is_asked_for(tmp_path):
    path = save_autoencoder(Autoencoder(**SIZES), tmp_path / "raw.safetensors")
    with pytest.raises(UserError, match=r"latent\.scale"):
        build_space(str(path))
    assert float(build_space({"path": str(path), "scale": 0.3}).autoencoder.scale) == pytest.approx(0.3)


def test_the_size_must_fit_network_and_autoencoder(file):
    with pytest.raises(UserError, match="multiples of 8"):
        InpaintingTask(["left", "right"], **{**TINY, "size": 36}, latent=str(file))


def test_an_exported_file_holds_the_autoencoder(file, tmp_path):
    task = InpaintingTask(["left", "right"], **TINY, latent=str(file)).eval()
    path = write_weights_file(tmp_path / "small.safetensors", weights_of(task))
    again = load_inpainter(path)
    for name, value in task.space.state_dict().items():
        torch.testing.assert_close(again.space.state_dict()[name], value, rtol=0.01, atol=0.01)  # bfloat16
    batch = Batches()[0]
    painted = again.inpaint(batch["image"], batch["map"], Condition.none(4, 2), seeds=range(4), steps=1)
    assert torch.equal(painted[batch["map"] == 0], batch["image"][batch["map"] == 0])


def test_the_command_line_goes_on_when_the_autoencoders_file_is_gone(file, tmp_path, monkeypatch):
    write_phantom(tmp_path / "archive", count=24, size=64)
    (tmp_path / "codec.safetensors").write_bytes(file.read_bytes())
    data = {"manifest": "archive/metadata.csv", "findings": ["Effusion"], "size": 64, "batch_size": 4, "maps": "masks"}
    config = {
        "model": {
            "class_path": "cxrsynth.inpainting.InpaintingTask",
            "init_args": {**TINY, "findings": ["Effusion"], "latent": "codec.safetensors"},
        },
        "data": {"class_path": "cxrsynth.data.CXRDataModule", "init_args": data},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", "config.yaml"])
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    (tmp_path / "codec.safetensors").unlink()
    main(["fit", "--config", "config.yaml", "--ckpt_path", str(checkpoint), "--trainer.max_steps", "2"])
    (last,) = tmp_path.rglob("*step=2.ckpt")
    assert torch.equal(load_inpainter(last).space.autoencoder.scale, torch.tensor(2.0))
