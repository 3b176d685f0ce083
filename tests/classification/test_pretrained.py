import pytest
import torch

from cxrsynth.classification import EfficientNet, load_pretrained
from cxrsynth.errors import UserError

# Names and shapes as published by each library for efficientnet-b0, one entry for every kind of layer.
TORCHVISION = {
    "features.0.0.weight": (32, 3, 3, 3),
    "features.0.1.running_mean": (32,),
    "features.1.0.block.0.0.weight": (32, 1, 3, 3),
    "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
    "features.1.0.block.2.0.weight": (16, 32, 1, 1),
    "features.1.0.block.2.1.weight": (16,),
    "features.2.0.block.0.0.weight": (96, 16, 1, 1),
    "features.2.1.block.1.0.weight": (144, 1, 3, 3),
    "features.2.1.block.2.fc2.bias": (144,),
    "features.2.1.block.3.0.weight": (24, 144, 1, 1),
    "features.6.3.block.3.1.bias": (192,),
    "features.7.0.block.3.0.weight": (320, 1152, 1, 1),
    "features.8.0.weight": (1280, 320, 1, 1),
    "features.8.1.running_var": (1280,),
    "classifier.1.weight": (7, 1280),
}
TIMM = {
    "conv_stem.weight": (32, 3, 3, 3),
    "bn1.running_mean": (32,),
    "blocks.0.0.conv_dw.weight": (32, 1, 3, 3),
    "blocks.0.0.se.conv_reduce.weight": (8, 32, 1, 1),
    "blocks.0.0.conv_pw.weight": (16, 32, 1, 1),
    "blocks.0.0.bn2.weight": (16,),
    "blocks.1.0.conv_pw.weight": (96, 16, 1, 1),
    "blocks.1.1.conv_dw.weight": (144, 1, 3, 3),
    "blocks.1.1.se.conv_expand.bias": (144,),
    "blocks.1.1.conv_pwl.weight": (24, 144, 1, 1),
    "blocks.5.3.bn3.bias": (192,),
    "blocks.6.0.conv_pwl.weight": (320, 1152, 1, 1),
    "conv_head.weight": (1280, 320, 1, 1),
    "bn2.running_var": (1280,),
    "classifier.weight": (7, 1280),
}
LUKEMELAS = {
    "_conv_stem.weight": (32, 3, 3, 3),
    "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
    "_blocks.15._project_conv.weight": (320, 1152, 1, 1),
    "_bn1.running_var": (1280,),
    "_fc.weight": (7, 1280),
}
# Layers before and after the blocks, in forward order.
ENDS = {
    "torchvision": ("features.0.0", "features.0.1", "features.8.0", "features.8.1", "classifier.1"),
    "timm": ("conv_stem", "bn1", "conv_head", "bn2", "classifier"),
    "lukemelas": ("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc"),
}
REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks a stage of b0, table 1 of the paper


def layer_names(layout: str) -> list[str]:
    """Layer names of b0 in forward order, spelled out from each library's documented structure."""
    stem_conv, stem_norm, head_conv, head_norm, head = ENDS[layout]
    names, flat = [stem_conv, stem_norm], 0
    for stage, repeats in enumerate(REPEATS):
        for index in range(repeats):
            if layout == "lukemelas":
                block = f"_blocks.{flat}."
                parts = ["_expand_conv", "_bn0"] * (stage > 0)
                parts += ["_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"]
            elif layout == "timm":
                block = f"blocks.{stage}.{index}."
                parts = ["conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3"]
                if stage == 0:
                    parts = ["conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2"]
            else:
                block = f"features.{stage + 1}.{index}.block."
                parts = ["0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0", "3.1"]
                if stage == 0:
                    parts = ["0.0", "0.1", "1.fc1", "1.fc2", "2.0", "2.1"]
            names += [block + part for part in parts]
            flat += 1
    return [*names, head_conv, head_norm, head]


def foreign_state(layout: str, net: EfficientNet) -> dict[str, torch.Tensor]:
    """The network's own tensors under a foreign library's names, matched by position in the forward order."""
    own = list(dict.fromkeys(key.rpartition(".")[0] for key in net.net.state_dict()))
    own.sort(key=lambda name: {"_conv_stem": 0, "_bn0": 1}.get(name, 3 if not name.startswith("_blocks") else 2))
    renamed = dict(zip(own, layer_names(layout), strict=True))
    return {
        f"{renamed[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value
        for key, value in net.net.state_dict().items()
    }


@pytest.fixture(scope="module")
def donor() -> EfficientNet:
    torch.manual_seed(1)
    return EfficientNet("efficientnet-b0", 7)


@pytest.mark.parametrize(
    ("layout", "published"), [("torchvision", TORCHVISION), ("timm", TIMM), ("lukemelas", LUKEMELAS)]
)
def test_foreign_layouts_fill_every_tensor(layout, published, donor, tmp_path):
    state = foreign_state(layout, donor)
    for name, shape in published.items():
        assert tuple(state[name].shape) == shape
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "weights.pt")
    net = EfficientNet("efficientnet-b0", 7)
    assert load_pretrained(net, tmp_path / "weights.pt") == []
    for key, value in donor.state_dict().items():
        assert torch.equal(net.state_dict()[key], value), key


@pytest.mark.parametrize("prefix", ["", "net.", "net.net."])
def test_own_layout_alone_and_inside_a_task(prefix, donor, tmp_path):
    torch.save({prefix + key: value for key, value in donor.net.state_dict().items()}, tmp_path / "weights.pt")
    net = EfficientNet("efficientnet-b0", 7)
    assert load_pretrained(net, tmp_path / "weights.pt") == []
    assert torch.equal(net.net._fc.weight, donor.net._fc.weight)


def test_head_of_other_classes_is_left_and_named(donor, tmp_path):
    torch.save(donor.net.state_dict(), tmp_path / "weights.pt")
    net = EfficientNet("efficientnet-b0", 3)
    before = net.net._fc.weight.clone()
    assert load_pretrained(net, tmp_path / "weights.pt") == ["net._fc.weight", "net._fc.bias"]
    assert torch.equal(net.net._fc.weight, before)
    assert torch.equal(net.net._conv_stem.weight, donor.net._conv_stem.weight)


def test_every_problem_is_listed(donor, tmp_path):
    state = foreign_state("timm", donor)
    del state["blocks.1.0.conv_dw.weight"]
    state["stray"] = torch.zeros(1)
    state["conv_head.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(UserError) as caught:
        load_pretrained(EfficientNet("efficientnet-b0", 7), tmp_path / "weights.pt")
    message = str(caught.value)
    assert "missing blocks.1.0.conv_dw.weight" in message
    assert "unexpected stray" in message
    assert "conv_head.weight has shape (3,) instead of (1280, 320, 1, 1)" in message


@pytest.mark.parametrize("content", [b"not a file of torch", None, {"a": torch.zeros(1)}, [1, 2]])
def test_unusable_files_give_one_sentence(content, tmp_path):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"weights .*weights\.pt"):
        load_pretrained(EfficientNet("efficientnet-b0", 2), path)


def test_unknown_network():
    with pytest.raises(UserError, match="efficientnet-b0, "):
        EfficientNet("resnet", 2)
