"""Autoencoders from files: this program's own, and MONAI's published ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from cxrsynth.autoencoder.autoencoder import Autoencoder
from cxrsynth.autoencoder.published import autoencoder_config, load_published, plain_state
from cxrsynth.encoder.weights import load_strictly, read_weights
from cxrsynth.errors import UserError
from cxrsynth.files import write_bytes

OWN_ENTRY = "cxrsynth_autoencoder"
"""Key in checkpoints of `AutoencoderTask`: `{"config": Autoencoder arguments, "prefix": where its weights are}`."""


def load_autoencoder(path: str | Path, *, scale: float | None = None, norm_groups: int | None = None) -> Autoencoder:
    """An autoencoder in eval mode, float32, on the CPU.

    Understands checkpoints of `AutoencoderTask`, files of `save_autoencoder`, and state dicts of MONAI's AutoencoderKL
    (`monai.networks.nets` and the older package `generative`) by `torch.save` or safetensors. Sizes are read from the
    weights; SHA-256 is logged. An older network that was made with `use_convtranspose` cannot be told from another by
    its file and is not supported.

    Args:
        path: The file.
        scale: See `Autoencoder`. Published files do not store it; without it the result cannot `encode` or `decode`.
        norm_groups: Of a published file, where it is not MONAI's 32.

    Raises:
        UserError: No autoencoder in the file, missing, unexpected or mis-shaped keys, all of them named, or a scale
            that is not above 0.
    """
    raw = read_weights(path)
    own = _own(raw, path)
    if own is None:
        state = plain_state(raw, path)
        autoencoder = Autoencoder(**autoencoder_config(state, path, norm_groups))
        load_published(autoencoder.network, state, path)
    else:
        config, state = own
        autoencoder = Autoencoder(**config)
        load_strictly(autoencoder, state, {key: key for key in {*state, *autoencoder.state_dict()}}, path)
    if scale is not None:
        autoencoder.scale.fill_(scale)
    if not (autoencoder.scale.isnan() or 0 < autoencoder.scale < torch.inf):
        raise UserError(f"scale of {path} is {float(autoencoder.scale)}; give 1 / the spread of its latents")
    autoencoder.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in its constructor
    return autoencoder.eval()


def save_autoencoder(autoencoder: Autoencoder, path: str | Path) -> Path:
    """Write an autoencoder as safetensors with its sizes and scale, for `load_autoencoder`."""
    weights = {name: value.detach().cpu().contiguous() for name, value in autoencoder.state_dict().items()}
    return write_bytes(path, save(weights, {OWN_ENTRY: json.dumps(autoencoder.config)}))


def _own(raw: Mapping[str, Any], path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Arguments and weights in a file of this program; None in the file of another."""
    try:
        if OWN_ENTRY in raw:
            entry = raw[OWN_ENTRY]
            prefix, weights = entry["prefix"], raw["state_dict"]
            state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            return dict(entry["config"]), state
        if Path(path).suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                written = (file.metadata() or {}).get(OWN_ENTRY)
            return None if written is None else (json.loads(written), dict(raw))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} has a damaged entry {OWN_ENTRY!r}; give the file as the training wrote it") from error
    return None
