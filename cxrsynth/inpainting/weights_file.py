"""The small files of inpainters that come with the package: averaged weights in bfloat16 and what belongs to them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.files import write_bytes
from cxrsynth.inpainting.text import Vocabulary

FOLDER = Path(__file__).with_name("weights")
SHIPPED = ("nih", "phantom")
SUFFIX = ".safetensors"
MAPS = "average_maps."
SPACE = "space."


@dataclass(frozen=True)
class WeightsFile:
    """What such a file holds.

    Attributes:
        settings: Arguments of `InpaintingTask`.
        state: Its averaged weights, float32 by name, and those of its autoencoder as `space.*`.
        average_maps: See `AverageMaps.state`.
        vocabulary: Of the text encoder, as JSON; None without text.
        patients: Digests of the training patients (see `digests`).
    """

    settings: dict[str, Any]
    state: dict[str, Tensor]
    average_maps: dict[str, Tensor]
    vocabulary: str | None
    patients: list[str]


def find_inpainter(name: str | Path) -> Path:
    """The file of an inpainter: `nih` and `phantom` come with the package, anything else is a path."""
    return FOLDER / f"{name}{SUFFIX}" if str(name) in SHIPPED else Path(name)


def digests(patients: Iterable[str]) -> list[str]:
    """Patients as short hashes: enough to recognise one that is known, not to list them."""
    return sorted({hashlib.sha256(patient.encode()).hexdigest()[:12] for patient in patients})


def refuse_leaks(held_out: Iterable[str], trained: Iterable[str]) -> None:
    """Raises `UserError` where patients to be judged by are among the digests of those trained on."""
    leaks = set(digests(held_out)) & set(trained)
    if leaks:
        raise UserError(
            f"start or teacher was trained on {len(leaks)} patients that are now in val or test; split them as it "
            "did, or take another archive"
        )


def write_weights_file(path: str | Path, content: WeightsFile) -> Path:
    """Write one; floating-point weights are rounded to bfloat16."""
    tensors = {
        name: (value.bfloat16() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in content.state.items()
    }
    tensors |= {MAPS + name: value.float().cpu().contiguous() for name, value in content.average_maps.items()}
    told = {"settings": content.settings, "vocabulary": content.vocabulary, "patients": content.patients}
    return write_bytes(path, save(tensors, {"inpainter": json.dumps(told)}))


def read_weights_file(path: str | Path) -> WeightsFile:
    """Read one.

    Raises:
        FileNotFoundError: There is none.
        UserError: It is damaged, or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["inpainter"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"checkpoint {path} is not an inpainter's, or is damaged; give a file that `cxrsynth export` wrote"
        ) from error
    maps = {name.removeprefix(MAPS): tensors.pop(name) for name in list(tensors) if name.startswith(MAPS)}
    state = {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in tensors.items()}
    return WeightsFile(told["settings"], state, maps, told["vocabulary"], told["patients"])


def take_up(task: Any, content: WeightsFile) -> None:
    """Give an inpainter, made with the file's settings, all else that the file holds."""
    space = {name.removeprefix(SPACE): value for name, value in content.state.items() if name.startswith(SPACE)}
    field = {name: value for name, value in content.state.items() if not name.startswith(SPACE)}
    task.space.load_state_dict(space)
    task.average.module.load_state_dict(field)
    task.velocity.load_state_dict(field)
    task.average_maps.load(content.average_maps)
    task.patients = content.patients
    if content.vocabulary is not None:
        known = Vocabulary.from_json(content.vocabulary, task.hparams["text_limit"])
        task.teller = replace(task.teller, vocabulary=known)
