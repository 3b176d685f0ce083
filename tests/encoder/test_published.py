"""Published layouts of every configuration: the same features as written-down equations give, or a refusal by name."""

import json
import logging
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save_file

from cxrsynth.encoder import inspect_encoder, load_encoder
from cxrsynth.encoder.naming import find_naming
from cxrsynth.errors import UserError

CONFIGURATIONS = [
    {},
    {"chunks": 0},
    {"chunks": 1},
    {"chunks": 6},
    {"ffn": "mlp"},
    {"ffn": "mlp", "chunks": 0, "registers": 0},
    {"registers": 1, "patch": 14, "image_size": 70},
    {"patch": 4, "image_size": 12, "depth": 4, "chunks": 2},
    {"layer_scale": False, "hidden": 40},
    {"dim": 64, "depth": 12, "chunks": 4},
]


def wrapped(file: dict) -> dict:
    return {"teacher": {f"backbone.{key}": value for key, value in file.items()} | {"dino_head.x": torch.ones(1)}}


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("layout", ["teacher", "release", "state dict"])
def test_features_are_those_of_the_equations(tmp_path, vit_file, vit_forward, changes, layout):
    file = vit_file(**changes)
    content = {
        "teacher": wrapped(file),
        "release": file,
        "state dict": {f"module.teacher.backbone.{k}": v for k, v in file.items()} | {"module.teacher.ibot_head.x": 1},
    }[layout]
    torch.save(content, tmp_path / "file.pth")
    patch = file["patch_embed.proj.weight"].shape[-1]
    for offset, antialias, rows, columns in [
        (0.1, False, 5, 2),
        (0.1, True, 2, 3),
        (0.0, False, 4, 9),
        (0.0, True, 3, 1),
    ]:
        encoder = load_encoder(
            tmp_path / "file.pth", num_heads=4, interpolate_offset=offset, interpolate_antialias=antialias
        )
        for size in ((rows, columns), (encoder.config["image_size"] // patch,) * 2):
            x = torch.randn(2, 3, size[0] * patch, size[1] * patch)
            with torch.no_grad():
                features = encoder.intermediate(x, n=4)
            first = 1 + encoder.config["registers"]
            for (patches, cls), want in zip(features, vit_forward(file, x, 4, offset, antialias)[-4:], strict=True):
                torch.testing.assert_close(patches, want[:, first:], rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(cls, want[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunks", [0, 3])
def test_every_key_matters(tmp_path, vit_file, chunks):
    """Whichever key is renamed, by a letter or to what another layout would call it, is refused by its name."""
    file = {f"backbone.{key}": value for key, value in vit_file(chunks=chunks, depth=3).items()}
    for old in file:
        other = {old + "_", old.removeprefix("backbone."), old.replace("backbone.", "module.backbone.")}
        if "blocks." in old:
            index, rest = old.removeprefix("backbone.blocks.").split(".", 1)
            other.add(f"backbone.blocks.{rest}" if chunks else f"backbone.blocks.0.{index}.{rest}")
            other.add(f"backbone.blocks.9.{rest}")
        for new in other:
            torch.save({"teacher": {new if key == old else key: v for key, v in file.items()}}, tmp_path / "file.pth")
            for read in (load_encoder, inspect_encoder):
                with pytest.raises(UserError) as error:
                    read(tmp_path / "file.pth", num_heads=4)
                assert new in str(error.value)
                # registers are optional, so a file without them lacks nothing
                assert "register_tokens" in old or old.removeprefix("backbone.") in str(error.value)


def test_the_rule_is_that_of_most_names():
    naming = find_naming(["backbone.blocks.0.0.x", "backbone.blocks.1.1.x", "backbone.blocks.1.1.y", "norm"])
    assert naming.theirs("blocks.1.z") == "backbone.blocks.1.1.z"
    assert naming.ours("backbone.blocks.0.0.x") == "blocks.0.x"
    assert naming.ours("norm") == "<norm>"
    assert naming.ours("backbone.blocks.0.1.x") == "<backbone.blocks.0.1.x>"


def test_fsdp_names(tmp_path, vit_file):
    file = {f"backbone._fsdp_wrapped_module.{key}": value for key, value in vit_file().items()}
    for key in [key for key in file if ".blocks." in key]:
        file[key.replace("blocks.", "blocks._checkpoint_wrapped_module.")] = file.pop(key)
    torch.save({"teacher": file, "iteration": 3}, tmp_path / "file.pth")
    assert load_encoder(tmp_path / "file.pth", num_heads=4).config["depth"] == 6


def write_shards(folder, file, suffix="safetensors"):
    names = list(file)
    weight_map = {}
    for part in range(3):
        shard = {key: file[key].clone() for key in names[part::3]}
        name = f"model-{part + 1}-of-3.{suffix}"
        save_file(shard, folder / name) if suffix == "safetensors" else torch.save(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    (folder / f"model.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_by_index_or_folder(tmp_path, vit_file, suffix, caplog):
    file = {f"backbone.{key}": value.half() for key, value in vit_file().items()}
    write_shards(tmp_path, file, suffix)
    index = tmp_path / f"model.{suffix}.index.json"
    with caplog.at_level(logging.INFO):
        loaded = [load_encoder(path, num_heads=4) for path in (tmp_path, index)]
    for shard in tmp_path.glob(f"*.{suffix}"):
        assert sha256(shard.read_bytes()).hexdigest() in caplog.text
    index.unlink()
    for encoder in (*loaded, load_encoder(tmp_path, num_heads=4)):
        assert torch.equal(encoder.blocks[5].attn.proj.weight, file["backbone.blocks.2.5.attn.proj.weight"].float())


def test_broken_shards_are_named(tmp_path, vit_file):
    weight_map = write_shards(tmp_path, vit_file())
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map | {"extra": "model-1-of-3.safetensors"}}))
    with pytest.raises(UserError, match=r"lack: extra in model-1-of-3"):
        load_encoder(tmp_path)
    index.write_text(json.dumps({"weight_map": weight_map | {"extra": "../../etc/passwd"}}))
    with pytest.raises(UserError, match="leaves its folder"):
        load_encoder(index)
    index.write_text(json.dumps({"weight_map": weight_map | {"extra": "model-4-of-3.safetensors"}}))
    with pytest.raises(UserError, match=r"no file of weights at .*model-4-of-3"):
        load_encoder(index)
    index.write_text("[1]")
    with pytest.raises(UserError, match="no index of shards"):
        load_encoder(index)
    (tmp_path / "other.index.json").write_text("{}")
    with pytest.raises(UserError, match="several indexes"):
        load_encoder(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model-1-of-3.safetensors").read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot read weights"):
        load_encoder(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "holds no encoder.*found nothing"),
        ({"teacher": {}}, "found nothing"),
        ([1], "holds a list"),
        ({"blocks.0.norm1.weight": torch.ones(3), "pos_embed": torch.ones(3)}, "pos_embed, patch_embed.proj.weight"),
        (lambda file: file | {"pos_embed": torch.ones(1, 8, 48)}, "7 patches, which make no square"),
        (lambda file: file | {"norm.bias": 3}, "'norm.bias' is a int"),
        (lambda file: file | {"norm.bias": torch.ones(48, dtype=torch.int8)}, r"norm.bias \(torch.int8\)"),
        ({"cxrsynth_encoder": 3}, "damaged entry"),
        (
            {"cxrsynth_encoder": {"config": {"rotary": True}, "prefix": "e."}, "state_dict": {}},
            "another version: it names rotary",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, vit_file, content, match):
    torch.save(content(vit_file()) if callable(content) else content, tmp_path / "file.pth")
    for read in (load_encoder, inspect_encoder):
        with pytest.raises(UserError, match=match):
            read(tmp_path / "file.pth", num_heads=4)


@pytest.mark.parametrize("offset", [-0.1, 1.0])
def test_an_offset_that_adds_a_patch_is_refused(tmp_path, vit_file, offset):
    torch.save(vit_file(), tmp_path / "file.pth")
    with pytest.raises(UserError, match="interpolate_offset is"):
        load_encoder(tmp_path / "file.pth", num_heads=4, interpolate_offset=offset)
