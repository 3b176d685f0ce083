"""Reading files of weights that were made elsewhere, and loading them strictly."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cxrsynth.errors import UserError
from cxrsynth.files import inside, sha256_file

logger = logging.getLogger(__name__)

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
INDEX = ".index.json"
"""End of the name of an index of shards: `{"weight_map": {key: file beside the index}}`, as Hugging Face writes it."""


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a file of weights, or shards whose entries are merged, without running code from it.

    The SHA-256 of every file is logged.

    Args:
        path: A file of `torch.save` or of safetensors, an index of shards (`*.index.json`), or a folder that holds
            either an index or nothing but shards.

    Returns:
        The mapping that the file holds; of shards, the union.

    Raises:
        UserError: The file is missing, damaged, holds more than plain data, two shards hold the same key, or a shard
            lacks what the index promises.
    """
    merged: dict[str, Any] = {}
    promised = _index(Path(path))
    files = sorted(set(promised.values())) if promised else _files(Path(path))
    if absent := [str(file) for file in files if not file.is_file()] or ([] if files else [str(path)]):
        raise UserError(
            f"no file of weights at {', '.join(absent)}; give the path of a {', '.join(SUFFIXES)} file, of a folder of "
            f"them or of their *{INDEX}"
        )
    for file in files:
        logger.info("weights %s sha256 %s", file, sha256_file(file))
        _merge(merged, _content(file), file)
    if lacking := [f"{key} in {file.name}" for key, file in promised.items() if key not in merged]:
        raise UserError(f"{path} promises keys that its shards lack: {', '.join(lacking)}; fetch the shards again")
    return merged


def fingerprints(path: str | Path) -> dict[str, str]:
    """SHA-256 of each file that `read_weights` would read, by file name."""
    promised = _index(Path(path))
    return {file.name: sha256_file(file) for file in sorted(set(promised.values())) or _files(Path(path))}


def _index(path: Path) -> dict[str, Path]:
    """Which file holds which key, where an index says so."""
    found = sorted(path.glob(f"*{INDEX}")) if path.is_dir() else [path] if path.name.endswith(INDEX) else []
    if len(found) > 1:
        raise UserError(f"{path} holds several indexes: {', '.join(file.name for file in found)}; give one as the path")
    if not found or not found[0].is_file():
        return {}
    try:
        weight_map = json.loads(found[0].read_text())["weight_map"]
        return {str(key): inside(found[0].parent, str(file)) for key, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f'{found[0]} is no index of shards; it must be JSON with {{"weight_map": {{key: file}}}}'
        ) from error


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else [path]


def _content(file: Path) -> Mapping[str, Any]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zip files raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason:  # torch's own advice is to run what is in the file
            reason = "it is damaged, or holds code and objects beside plain tensors"
        raise UserError(f"cannot read weights from {file}: {reason}; give a file of tensors alone") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds a {type(content).__name__}, not a mapping of names to weights")
    return content


def _merge(into: dict[str, Any], content: Mapping[str, Any], file: Path) -> None:
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, file)
        elif key in into and isinstance(value, Tensor):
            raise UserError(f"shard {file} holds {key!r}, which another shard of its folder holds as well; remove one")
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str], path: str | Path) -> None:
    """Load every weight as float32 or refuse with the whole list of what does not fit.

    Args:
        module: What to load into; may be on the meta device.
        state: Weights under the module's own names, of any floating dtype.
        names: For each key of `state` (and, where known, for others of the module), its name in the file.
        path: The file, for the message.

    Raises:
        UserError: Missing, unexpected or mis-shaped keys, integers, or weights that are not finite; all are named.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = []
    if missing := [names.get(key, key) for key in wanted if key not in state]:
        problems.append(f"missing {', '.join(missing)}")
    if unexpected := [names[key] for key in state if key not in wanted]:
        problems.append(f"unexpected {', '.join(unexpected)}")
    if misshaped := [
        f"{names[key]} {tuple(state[key].shape)} instead of {wanted[key]}"
        for key in wanted
        if key in state and tuple(state[key].shape) != wanted[key]
    ]:
        problems.append(f"mis-shaped {', '.join(misshaped)}")
    if integers := [f"{names[key]} ({value.dtype})" for key, value in state.items() if not value.is_floating_point()]:
        problems.append(f"not of a floating type {', '.join(integers)}")
    weights = {key for key, _ in module.named_parameters()}  # a buffer may be NaN: not measured yet
    held = {key: value for key, value in state.items() if key in weights and not value.is_meta}
    if endless := [names[key] for key, value in held.items() if not value.isfinite().all()]:
        problems.append(f"not finite {', '.join(endless)}")
    if problems:
        raise UserError(
            f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}; give the file as published"
        )
    module.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
