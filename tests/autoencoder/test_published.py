"""MONAI's AutoencoderKL files: present and older names, sizes from shapes, and what does not fit."""

import pytest
import torch
from monai.networks.nets import AutoencoderKL
from safetensors.torch import save_file

from cxrsynth.autoencoder import load_autoencoder
from cxrsynth.errors import UserError

SIZES = [
    {"attention_levels": (False, True), "with_encoder_nonlocal_attn": True, "with_decoder_nonlocal_attn": True},
    {"attention_levels": (True, True), "with_encoder_nonlocal_attn": False, "num_res_blocks": (1, 2)},
    {"attention_levels": (False, False), "with_decoder_nonlocal_attn": False, "num_res_blocks": 3},
    {"attention_levels": (False, True), "use_combined_linear": True, "use_convtranspose": True},
]


def network(**options) -> AutoencoderKL:
    sizes = {"channels": (32, 64), "latent_channels": 3, "num_res_blocks": 1}
    return AutoencoderKL(**{"spatial_dims": 2, **sizes, **options}).eval()


def older(state: dict) -> dict:
    """The names of the package `generative`, and the layer of its attention blocks that it never applied."""
    names = {key: key.replace(".attn.to_", ".to_").replace(".postconv.", ".conv.") for key in state}
    renamed = {names[key]: value for key, value in state.items()}
    for key in [key for key in renamed if key.endswith(".to_q.weight")]:
        stem, width = key.removesuffix(".to_q.weight"), renamed[key].shape[0]
        renamed |= {f"{stem}.proj_attn.weight": torch.randn(width, width), f"{stem}.proj_attn.bias": torch.randn(width)}
    return renamed


def same(loaded, published: AutoencoderKL) -> bool:
    image = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        latent = published.encode(image)[0]
        codes = torch.allclose(loaded.encode(image), 0.5 * latent, atol=1e-5)
        return codes and torch.allclose(loaded.decode(0.5 * latent), published.decode(latent), atol=1e-5)


@pytest.mark.parametrize("sizes", SIZES)
def test_sizes_are_read_from_the_shapes(tmp_path, sizes):
    published = network(**sizes)
    torch.save({"state_dict": published.state_dict()}, tmp_path / "autoencoder.pt")
    assert same(load_autoencoder(tmp_path / "autoencoder.pt", scale=0.5), published)


@pytest.mark.parametrize("sizes", SIZES[:3])
def test_older_names_and_safetensors(tmp_path, sizes):
    published = network(**sizes, include_fc=False)
    save_file(older(published.state_dict()), tmp_path / "autoencoder.safetensors")
    assert same(load_autoencoder(tmp_path / "autoencoder.safetensors", scale=0.5), published)


def test_the_chest_network_of_the_model_zoo_has_the_sizes_of_its_card(tmp_path):
    """`cxr_image_synthesis_latent_diffusion_model`: four levels, older names, attention at the lowest resolution."""
    with torch.device("meta"):
        published = network(channels=(64, 128, 128, 128), num_res_blocks=2, attention_levels=(False,) * 4)
    state = {key: torch.zeros(value.shape) for key, value in published.state_dict().items() if "out_proj" not in key}
    torch.save(older(state), tmp_path / "autoencoder.pth")
    config = load_autoencoder(tmp_path / "autoencoder.pth").config
    assert config["channels"] == [64, 128, 128, 128]
    assert config["num_res_blocks"] == [2, 2, 2, 2]
    assert config["encoder_attention"]
    assert config["decoder_attention"]
    assert not any(config["attention"])
    assert config["latent_channels"] == 3


def test_every_key_that_does_not_fit_is_named(tmp_path):
    state = network(**SIZES[0]).state_dict()
    del state["decoder.blocks.0.conv.bias"]
    state["encoder.blocks.1.norm1.weight"] = torch.zeros(5)
    state["colour.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "autoencoder.pt")
    with pytest.raises(UserError) as error:
        load_autoencoder(tmp_path / "autoencoder.pt")
    for word in (
        "missing decoder.blocks.0.conv.bias",
        "unexpected colour.weight",
        "encoder.blocks.1.norm1.weight (5,)",
    ):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ({"weight": torch.zeros(1)}, {}, "no AutoencoderKL"),
        ({"epoch": 3}, {}, "no state dict"),
        (network(spatial_dims=3, attention_levels=(False, False)), {}, "3 dimensions"),
        (network(in_channels=3, attention_levels=(False, False)), {}, "3 channels"),
        (network(channels=(8, 8), norm_num_groups=4, attention_levels=(False, False)), {}, "norm_groups"),
        (network(attention_levels=(False, False)), {"scale": 0.0}, "scale"),
        (network(attention_levels=(False, False)), {"norm_groups": 5}, "norm_groups 5"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, content, options, words):
    state = content.state_dict() if isinstance(content, torch.nn.Module) else content
    torch.save(state, tmp_path / "file.pt")
    with pytest.raises(UserError, match=words) as error:
        load_autoencoder(tmp_path / "file.pt", **options)
    assert "\n" not in str(error.value)
