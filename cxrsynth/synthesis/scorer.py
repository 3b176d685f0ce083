"""The scorer: a classifier of real images that selects synthetic ones, and never judges them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cxrsynth.checkpoints import check_finite
from cxrsynth.classification.task import ClassificationTask
from cxrsynth.data.geometry import to_square
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file


@dataclass(frozen=True)
class Scorer:
    """A trained classifier that saw real images only.

    Attributes:
        task: In eval mode.
        size: Side of the squares that it sees.
        sha256: Of its checkpoint.
    """

    task: ClassificationTask
    size: int
    sha256: str

    @property
    def findings(self) -> list[str]:
        """Its outputs."""
        return self.task.findings

    @torch.inference_mode()
    def pair(self, source: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities `[C]` of two squares `[1, S, S]`, always two in a forward, so that no other image matters."""
        both = torch.stack([to_square(image, self.size) for image in (source, result)]).to(self.task.device)
        before, after = self.task(both).sigmoid().cpu().clone()
        return before, after


def load_scorer(path: str | Path, device: torch.device | str = "cpu") -> Scorer:
    """Read a scorer.

    Raises:
        UserError: The file is missing, is no classifier's, or its training saw synthetic images or failed.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        task = ClassificationTask.load_from_checkpoint(path, map_location=device, weights_only=True).eval()
        size = int(saved["datamodule_hyper_parameters"]["size"])
    except Exception as error:  # torch, pickle and Lightning raise many kinds on foreign files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"scorer {path} is not a classifier's checkpoint ({reason}); train one first") from error
    _refuse_synthetic(saved, path)
    check_finite(task, path)
    return Scorer(task, size, sha256_file(path))


def check_independent(scorer: str | Path, judge: str | Path) -> None:
    """Refuse a scorer that is also the judge of what it selects, or its twin.

    Args:
        scorer: Checkpoint that selects.
        judge: Checkpoint of the classifier that judges the images, or is trained to tell whether they help.

    Raises:
        UserError: Both are one file or one architecture, so that the judge would share what the scorer mistook.
    """
    if sha256_file(scorer) == sha256_file(judge):
        raise UserError(f"scorer {scorer} and judge {judge} are the same file; train a scorer of its own")
    networks = [
        torch.load(path, map_location="cpu", weights_only=True)["hyper_parameters"]["network"]
        for path in (scorer, judge)
    ]
    check_networks(*networks)


def check_networks(scorer: str, judge: str) -> None:
    """Refuse one architecture for the scorer and the judge.

    Raises:
        UserError: They are equal.
    """
    if scorer == judge:
        raise UserError(
            f"scorer and judge are both {judge}; give the scorer another network, "
            "or the judge repeats the mistakes that the images were selected by"
        )


def _refuse_synthetic(saved: dict[str, Any], path: str | Path) -> None:
    extra = saved["datamodule_hyper_parameters"].get("extra_manifest")
    start = saved["hyper_parameters"].get("start")
    if extra is not None or start is not None:
        raise UserError(
            f"scorer {path} was trained on {extra or start}; a scorer may see real training images only, from scratch"
        )
