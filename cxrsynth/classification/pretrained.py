"""Strict import of pretrained EfficientNet files in the layouts that are in use.

MONAI, lukemelas/EfficientNet-PyTorch, torchvision and timm hold the same tensors under different names. Names are
mapped one by one, so a file either fills every tensor of the body or is refused with the list of what is wrong. The
files of torchvision and of timm's own training were made with symmetric padding and a batch-norm eps of 1e-5; here they
meet TensorFlow's padding and 1e-3, which fine-tuning absorbs.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cxrsynth.classification.efficientnet import EfficientNet
from cxrsynth.errors import UserError

HEAD = ("_fc.weight", "_fc.bias")
WRAPPERS = ("state_dict", "model_state_dict", "model", "ema_state_dict")


def load_pretrained(net: EfficientNet, path: str | Path) -> list[str]:
    """Fill a network from a state-dict file, read with `weights_only=True`.

    The output layer is taken over when its shape fits and left as initialised otherwise, since a file trained on other
    classes cannot fill it.

    Args:
        net: The network, changed in place.
        path: File in MONAI, lukemelas, torchvision or timm layout, bare or under a usual wrapper key.

    Returns:
        Names of the tensors of `net` that the file did not fill: the output layer or nothing.

    Raises:
        UserError: The file cannot be read, its layout is unknown, or a tensor is missing, left over or misshapen.
    """
    source = _read(path)
    target = net.net.state_dict()
    names = _names(target, source, path)
    missing = [f"missing {names[key]}" for key in target if names[key] not in source and not _optional(key)]
    unexpected = [f"unexpected {key}" for key in sorted(source.keys() - set(names.values()))]
    misshapen = [
        f"{names[key]} has shape {tuple(source[names[key]].shape)} instead of {tuple(value.shape)}"
        for key, value in target.items()
        if names[key] in source and source[names[key]].shape != value.shape and key not in HEAD
    ]
    if problems := missing + unexpected + misshapen:
        raise UserError(f"weights {path} do not fit {net.name}: {'; '.join(problems)}; give a file of {net.name}")
    fits = {key: source[name] for key, name in names.items() if name in source}
    fits = {key: value for key, value in fits.items() if value.shape == target[key].shape}
    net.net.load_state_dict(fits, strict=False)
    return [f"net.{key}" for key in HEAD if key not in fits]


def _optional(key: str) -> bool:
    return key in HEAD or key.endswith("num_batches_tracked")


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"weights {path} cannot be read ({reason}); give a state dict saved by torch.save") from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"weights {path} hold no state dict (names to tensors); save the network's state_dict()")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _names(target: dict[str, Tensor], source: dict[str, Tensor], path: str | Path) -> dict[str, str]:
    """Name of each of our tensors in the file's layout, told by the name of its first convolution."""
    if "features.0.0.weight" in source:
        return _rename(target, _torchvision)
    if "conv_stem.weight" in source:
        return _rename(target, _timm)
    if "_conv_stem.weight" in source and "_blocks.0._depthwise_conv.weight" in source:
        return _rename(target, _lukemelas)
    stems = [key for key in source if key.endswith("_conv_stem.weight")]
    if len(stems) == 1:  # MONAI's network, alone or inside a module of ours
        prefix = stems[0].removesuffix("_conv_stem.weight")
        return {key: prefix + key for key in target}
    raise UserError(
        f"weights {path} are in no known EfficientNet layout (first names: {', '.join(list(source)[:3])}); "
        "give a file of MONAI, EfficientNet-PyTorch, torchvision or timm"
    )


def _rename(target: dict[str, Tensor], layout: Callable[[str, int, int, int], str]) -> dict[str, str]:
    """Apply a layout to MONAI's names `<layer>.<parameter>` and `_blocks.<stage>.<flat>.<layer>.<parameter>`.

    The layout is given the layer, the stage (-1 outside the blocks), and the block's index over all blocks and in its
    stage.
    """
    names: dict[str, str] = {}
    first: dict[int, int] = {}
    for key in target:
        *block, layer, parameter = key.split(".")
        stage, flat = (int(block[1]), int(block[2])) if block else (-1, 0)
        index = flat - first.setdefault(stage, flat)
        names[key] = f"{layout(layer, stage, flat, index)}.{parameter}"
    return names


def _lukemelas(layer: str, stage: int, flat: int, index: int) -> str:
    return layer if stage < 0 else f"_blocks.{flat}.{layer}"


def _torchvision(layer: str, stage: int, flat: int, index: int) -> str:
    if stage < 0:
        return {
            "_conv_stem": "features.0.0",
            "_bn0": "features.0.1",
            "_conv_head": "features.8.0",
            "_bn1": "features.8.1",
            "_fc": "classifier.1",
        }[layer]
    depthwise = 0 if stage == 0 else 1  # blocks of the first stage have no expansion
    part = {
        "_expand_conv": "0.0",
        "_bn0": "0.1",
        "_depthwise_conv": f"{depthwise}.0",
        "_bn1": f"{depthwise}.1",
        "_se_reduce": f"{depthwise + 1}.fc1",
        "_se_expand": f"{depthwise + 1}.fc2",
        "_project_conv": f"{depthwise + 2}.0",
        "_bn2": f"{depthwise + 2}.1",
    }[layer]
    return f"features.{stage + 1}.{index}.block.{part}"


def _timm(layer: str, stage: int, flat: int, index: int) -> str:
    if stage < 0:
        tops = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
        return tops[layer]
    parts = {"_depthwise_conv": "conv_dw", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
    if stage == 0:
        parts |= {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    else:
        parts |= {"_expand_conv": "conv_pw", "_bn0": "bn1", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    return f"blocks.{stage}.{index}.{parts[layer]}"
