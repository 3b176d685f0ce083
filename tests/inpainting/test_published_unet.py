"""Published DiffusionModelUNets of MONAI as the start of a training."""

from pathlib import Path

import lightning as L
import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from cxrsynth.autoencoder import Autoencoder, save_autoencoder
from cxrsynth.errors import UserError
from cxrsynth.inpainting import Condition, InpaintingTask, load_inpainter

SIZES = {"channels": (16, 32), "attention_levels": (False, True), "num_res_blocks": 1, "norm_num_groups": 8}
TOLD = {"with_conditioning": True, "cross_attention_dim": 12}
ASKED = {"prediction": "velocity", "head_channels": 8, "norm_groups": 8}


def network(**options) -> DiffusionModelUNet:
    torch.manual_seed(0)
    built = DiffusionModelUNet(
        **{"spatial_dims": 2, "in_channels": 3, "out_channels": 3, "num_head_channels": 8, **SIZES, **options}
    )
    with torch.no_grad():  # its last layers begin with 0
        for weight in built.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return built.eval()


def older(state: dict) -> dict:
    """The names of the package `generative`."""
    names = {}
    for key in state:
        name = key.replace(".postconv.", ".conv.").replace(".attn.to_", ".to_")
        names[key] = name.replace(".out_proj.", ".to_out.0.")
    return {names[key]: value for key, value in state.items()}


@pytest.fixture
def latent(tmp_path) -> str:
    codec = Autoencoder((8, 8), latent_channels=3, norm_groups=4)
    codec.scale.fill_(1.0)
    return str(save_autoencoder(codec, tmp_path / "autoencoder.safetensors"))


def task_of(path: Path, latent: str, asked: dict | None = None, **options) -> InpaintingTask:
    pretrained = {"path": str(path), **ASKED, **(asked or {})}
    return InpaintingTask(["left", "right"], size=16, latent=latent, pretrained=pretrained, **options)


def velocity(task: InpaintingTask, x: torch.Tensor, t: torch.Tensor, where: float = 0.0) -> torch.Tensor:
    region, coordinates = torch.ones(2, 1, 8, 8), torch.full((2, 2, 8, 8), where)
    return task.velocity(x, t, region, coordinates, Condition.none(2, 2))


VARIANTS = {
    "told": (TOLD, False),
    "told, older names": (TOLD, True),
    "without a condition": ({"with_conditioning": False}, False),
    "older names without a condition": ({"with_conditioning": False, "include_fc": False}, True),
    "residual steps between levels": ({**TOLD, "resblock_updown": True, "transformer_num_layers": 2}, False),
    "combined layers": ({**TOLD, "num_res_blocks": (1, 2), "use_combined_linear": True}, False),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_published_network_answers_as_it_did(tmp_path, latent, variant):
    """Whole films: what it was asked when it was published, with the region and the place it never knew."""
    options, renamed = VARIANTS[variant]
    published = network(**options)
    state = published.state_dict()
    torch.save({"state_dict": older(state) if renamed else state}, tmp_path / "unet.pt")
    task = task_of(tmp_path / "unet.pt", latent)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        tokens = task.velocity.embed(Condition.none(2, 2)).tokens if options["with_conditioning"] else None
        expected = published(x, 1000 * (1 - t), context=tokens)
        torch.testing.assert_close(velocity(task, x, t), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(velocity(task, x, t, where=0.7), expected, atol=1e-4, rtol=1e-4)
    if tokens is not None:
        assert tokens.shape[-1] == 12


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_it_learns_and_its_checkpoint_is_one_file(tmp_path, latent, tuning):
    torch.save(network(**TOLD).state_dict(), tmp_path / "unet.pt")
    asked = {"prediction": "v", "schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0205}
    task = task_of(tmp_path / "unet.pt", latent, asked, tuning=tuning)
    image = torch.rand(4, 1, 16, 16)
    place = torch.zeros_like(image)
    place[:, :, 3:11, 3:11] = 1
    batch = {"image": image, "map": place, "target": torch.tensor([[1.0, 0.0]] * 4), "finding": torch.zeros(4).long()}
    before = {name: value.clone() for name, value in task.velocity.named_parameters()}
    trainer = L.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(task, torch.utils.data.DataLoader([batch] * 2, None))
    moved = {name for name, value in task.velocity.named_parameters() if not torch.equal(before[name], value)}
    frozen = {name for name in before if name.endswith(".original") or ".resnets." in name}
    assert moved
    assert "unet.conv_in.conv.weight" in moved
    assert not frozen & moved if tuning == "lora" else frozen & moved
    trainer.save_checkpoint(tmp_path / "inpainting.ckpt")
    (tmp_path / "unet.pt").unlink()
    again = load_inpainter(tmp_path / "inpainting.ckpt")
    assert list(again.hparams["pretrained"]["sha256"]) == ["unet.pt"]
    request = (image, place, Condition.none(4, 2))
    options = {"seeds": range(4), "steps": 1}
    painted = task.eval().inpaint(*request, **options)
    assert torch.equal(painted, again.inpaint(*request, **options))
    assert torch.equal(painted[place == 0], image[place == 0])


def test_every_key_that_does_not_fit_is_named(tmp_path, latent):
    state = network(**TOLD).state_dict()
    del state["time_embed.0.bias"]
    state["up_blocks.0.resnets.0.norm1.weight"] = torch.zeros(5)
    state["class_embedding.weight"] = torch.zeros(3, 64)
    torch.save(state, tmp_path / "unet.pt")
    with pytest.raises(UserError) as error:
        task_of(tmp_path / "unet.pt", latent)
    for word in ("missing time_embed.0.bias", "unexpected class_embedding.weight", "norm1.weight (5,) instead of"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("made", "asked", "options", "words"),
    [
        (TOLD, {"head_channels": None}, {}, "head_channels"),
        (TOLD, {"norm_groups": None}, {}, "norm_groups"),
        (TOLD, {"prediction": "sample"}, {}, "sample"),
        (TOLD, {"colour": 1}, {}, "colour"),
        (TOLD, {}, {"network": "dit"}, "network unet"),
        (TOLD, {}, {"patch": 2}, "patch 1"),
        (TOLD, {}, {"tuning": "half"}, "half"),
        ({**TOLD, "in_channels": 4}, {}, {}, "takes 4 channels and gives 3"),
        ({**TOLD, "in_channels": 1, "out_channels": 1}, {}, {}, "the state here has 3"),
        ({**TOLD, "spatial_dims": 3}, {}, {}, "3 dimensions"),
    ],
)
def test_other_networks_are_refused_in_one_sentence(tmp_path, latent, made, asked, options, words):
    torch.save(network(**made).state_dict(), tmp_path / "unet.pt")
    with pytest.raises(UserError, match=words) as error:
        task_of(tmp_path / "unet.pt", latent, asked, **options)
    assert "\n" not in str(error.value)


def test_tuning_without_a_published_network_is_refused():
    with pytest.raises(UserError, match="tuning"):
        InpaintingTask(["left"], size=16, channels=[8, 16], tuning="lora")
