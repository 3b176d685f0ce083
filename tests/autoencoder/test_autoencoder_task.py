import lightning as L
import pytest
import torch
import yaml

from cxrsynth.autoencoder import Autoencoder, AutoencoderTask, load_autoencoder, save_autoencoder
from cxrsynth.autoencoder.crops import random_windows
from cxrsynth.autoencoder.figures import high_frequency_power
from cxrsynth.autoencoder.losses import kl_divergence
from cxrsynth.autoencoder.moments import RunningMoments
from cxrsynth.cli import main
from cxrsynth.data.phantom import write_phantom
from cxrsynth.errors import UserError

TINY = {"size": 16, "channels": [8, 8], "norm_groups": 4, "latent_channels": 2, "warmup": 2}


class Batches(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        broad = torch.nn.functional.interpolate(torch.rand(8, 1, 4, 4, generator=generator), (32, 32), mode="bilinear")
        return {"image": broad}


def fit(task: AutoencoderTask, folder, **options) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = L.Trainer(**quiet, default_root_dir=folder, enable_checkpointing=False, **{"max_epochs": 1, **options})
    loader = torch.utils.data.DataLoader(Batches(), None)
    trainer.fit(task, loader, loader)
    return trainer


def test_divergence_is_that_of_the_normal_distributions():
    mean, deviation = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) + 0.1
    known = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0, 1)
    )
    torch.testing.assert_close(kl_divergence(mean, deviation), known.sum((1, 2, 3)).mean())


def test_fine_detail_is_seen_and_broad_shapes_are_not():
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    stripes = (torch.arange(32) % 2).float().expand(1, 1, 32, 32)
    assert high_frequency_power(ramp)[0] < 1e-4
    inner = (torch.arange(32) > 0).float() * (torch.arange(32) < 31)
    assert high_frequency_power(stripes, inner.expand(1, 1, 32, 32))[0] == pytest.approx(0.25)  # the filter takes all
    left = torch.zeros_like(ramp)
    left[..., :10] = 1
    assert high_frequency_power(torch.where(left > 0, ramp, stripes), left * (torch.arange(32) < 9))[0] < 1e-4


def test_moments_are_a_mean_at_first_and_follow_later():
    moments, batches = RunningMoments(memory=10), 3 + 2 * torch.randn(10, 500)
    for batch in batches:
        moments.update(batch)
    torch.testing.assert_close(moments.deviation, batches.std(correction=0))
    for _ in range(100):
        moments.update(torch.randn(500))
    assert moments.deviation == pytest.approx(1, abs=0.1)


def test_windows_lie_in_the_image_and_vary():
    image = torch.linspace(0, 1, 32).expand(50, 1, 32, 32)
    windows = random_windows(image, 8, 0.5, torch.Generator().manual_seed(0))
    assert windows.shape == (50, 1, 8, 8)
    extent = (windows[..., -1] - windows[..., 0]).mean((1, 2))
    assert 0.35 < extent.min() < 0.5 < 0.75 < extent.max() <= 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("autoencoder")
    task = AutoencoderTask(**TINY)
    trainer = fit(task, folder, max_epochs=3)
    trainer.save_checkpoint(folder / "autoencoder.ckpt")
    return task.eval(), folder / "autoencoder.ckpt", trainer.callback_metrics


def test_a_checkpoint_holds_the_scale_of_its_latents(trained):
    task, path, metrics = trained
    again = load_autoencoder(path)
    image = Batches()[0]["image"]
    assert torch.equal(again.encode(image), task.autoencoder.encode(image))
    assert torch.equal(again.decode(again.encode(image)), task.autoencoder.decode(task.autoencoder.encode(image)))
    with torch.no_grad():
        spread = torch.cat([task.autoencoder.posterior(Batches()[i]["image"])[0].flatten() for i in range(4)]).std()
    assert float(again.scale * spread) == pytest.approx(1, abs=0.5)  # twelve steps, while the encoder moved
    assert {f"val/{name}" for name in ("loss", "psnr", "ssim", "detail", "latent_std")} <= set(metrics)


def test_safetensors_round_trip(trained, tmp_path):
    path = save_autoencoder(trained[0].autoencoder, tmp_path / "autoencoder.safetensors")
    image = Batches()[0]["image"]
    assert torch.equal(load_autoencoder(path).encode(image), trained[0].autoencoder.encode(image))


def test_training_improves_the_reconstruction(trained, tmp_path):
    image = Batches()[0]["image"]
    torch.manual_seed(0)
    fresh = AutoencoderTask(**TINY).eval()
    assert (trained[0](image) - image).abs().mean() < 0.7 * (fresh(image) - image).abs().mean()


def test_a_training_that_was_cut_off_ends_at_the_same_weights(tmp_path):
    ends = []
    for attempts in ([2], [1, 2]):
        for number, epochs in enumerate(attempts):
            torch.manual_seed(7 if number == 0 else 8)
            task = AutoencoderTask(**TINY)
            quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}

            class Stop(L.Callback):
                def on_train_epoch_end(self, trainer, pl_module, epochs=epochs):
                    trainer.should_stop = trainer.current_epoch + 1 == epochs

            trainer = L.Trainer(**quiet, enable_checkpointing=False, max_epochs=2, callbacks=[Stop()])
            loader = torch.utils.data.DataLoader(Batches(), None)
            trainer.fit(task, loader, ckpt_path=tmp_path / "cut.ckpt" if number else None, weights_only=True)
            trainer.save_checkpoint(tmp_path / "cut.ckpt")
        ends.append(task.state_dict())
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


def test_a_discriminator_takes_turns_and_steps_are_counted_once(tmp_path):
    task = AutoencoderTask(**TINY, adversarial=0.1, adversarial_start=1)
    before = [p.clone() for p in task.discriminator.parameters()]
    trainer = fit(task, tmp_path, max_epochs=2)
    assert trainer.global_step == 8
    assert "train/discriminator" in trainer.callback_metrics
    assert any(not torch.equal(a, b) for a, b in zip(before, task.discriminator.parameters(), strict=True))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    load_autoencoder(tmp_path / "a.ckpt")


def test_a_pretrained_one_is_gone_on_with_and_needed_no_more(trained, tmp_path):
    first = AutoencoderTask(pretrained=str(trained[1]), size=16, lr=0.0)
    image = Batches()[0]["image"]
    assert torch.equal(first(image), trained[0](image))
    trainer = fit(first, tmp_path)
    trainer.save_checkpoint(tmp_path / "second.ckpt")
    again = AutoencoderTask.load_from_checkpoint(tmp_path / "second.ckpt", weights_only=True)
    assert again.hparams["pretrained"]["channels"] == [8, 8]
    assert torch.equal(again(image), trained[0](image))
    assert float(first.autoencoder.scale) != float(trained[0].autoencoder.scale)  # measured anew


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 15}, "multiples of 2"),
        ({"norm_groups": 3}, "multiples of it"),
        ({"attention": [True]}, "one value a level"),
        ({"minimum": 0.0}, "minimum"),
        ({"pretrained": "nowhere.ckpt"}, "nowhere"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        AutoencoderTask(**{**TINY, **options})


def test_an_unscaled_autoencoder_says_so_by_nan():
    assert Autoencoder((8,), norm_groups=4).encode(torch.rand(1, 1, 8, 8)).isnan().all()


def test_images_are_decoded_in_float32_whatever_the_encoder_computes_in():
    networks = [Autoencoder((8, 8), norm_groups=4, bf16=bf16) for bf16 in (False, True)]
    networks[1].load_state_dict(networks[0].state_dict())
    latent = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        exact, asked = (network.decode_unscaled(latent, bf16=False) for network in networks)
    assert torch.equal(exact, asked)
    assert torch.equal(exact, networks[0].decode_unscaled(latent))


def test_the_command_line_fits_validates_tests_and_predicts(tmp_path, monkeypatch, capsys):
    write_phantom(tmp_path / "archive", count=24, size=64)
    config = {
        "model": {"class_path": "cxrsynth.autoencoder.AutoencoderTask", "init_args": TINY},
        "data": {
            "class_path": "cxrsynth.data.CXRDataModule",
            "init_args": {"manifest": "archive/metadata.csv", "findings": ["Effusion"], "size": 64, "batch_size": 8},
        },
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", "config.yaml"])
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert float(load_autoencoder(checkpoint).scale) > 0
    for command in ("validate", "test", "predict"):
        main([command, "--config", "config.yaml", "--ckpt_path", str(checkpoint)])
    shown = capsys.readouterr().out
    assert "val/psnr" in shown
    assert "test/detail" in shown
