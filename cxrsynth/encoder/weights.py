"""Reading files of weights that were made elsewhere, and loading them strictly."""

import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file

logger = logging.getLogger(__name__)


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a file of weights, or a folder of shards whose entries are merged, without running code from it.

    The SHA-256 of every file is logged.

    Args:
        path: A file that `torch.save` made, or a folder of such files (`*.pt`, `*.pth`, `*.ckpt`).

    Returns:
        The mapping that the file holds; of shards, the union.

    Raises:
        UserError: The file is missing, damaged, holds more than plain data, or two shards hold the same key.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in {".pt", ".pth", ".ckpt"})
    if not files or not all(file.is_file() for file in files):
        raise UserError(f"no file of weights at {path}; give the path of a .pth or .ckpt file, or of a folder of them")
    merged: dict[str, Any] = {}
    for file in files:
        logger.info("weights %s sha256 %s", file, sha256_file(file))
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"cannot read weights from {file}: {reason}; give a file of tensors alone") from error
        if not isinstance(content, Mapping):
            raise UserError(f"{file} holds a {type(content).__name__}, not a mapping of names to weights")
        _merge(merged, content, file)
    return merged


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
        names: For each key of `state`, its name in the file, for the message.
        path: The file, for the message.

    Raises:
        UserError: Missing, unexpected or mis-shaped keys; all are named.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = []
    if missing := [key for key in wanted if key not in state]:
        problems.append(f"missing {', '.join(missing)}")
    if unexpected := [names[key] for key in state if key not in wanted]:
        problems.append(f"unexpected {', '.join(unexpected)}")
    if misshaped := [
        f"{names[key]} {tuple(state[key].shape)} instead of {wanted[key]}"
        for key in wanted
        if key in state and tuple(state[key].shape) != wanted[key]
    ]:
        problems.append(f"mis-shaped {', '.join(misshaped)}")
    if problems:
        raise UserError(
            f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}; give the file as published"
        )
    module.load_state_dict({key: value.float() for key, value in state.items()}, strict=True, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(True)
