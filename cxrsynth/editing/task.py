"""Many edits with the same networks, through `Trainer.predict`."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch

from cxrsynth import __version__
from cxrsynth.attention.task import GLoRITask
from cxrsynth.editing.command import record_path, save
from cxrsynth.editing.datamodule import Request
from cxrsynth.editing.edit import edit
from cxrsynth.editing.source import is_dicom
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file, write_json
from cxrsynth.inpainting.task import load_inpainter
from cxrsynth.inpainting.weights_file import find_inpainter
from cxrsynth.synthesis.provenance import recipe_hash
from cxrsynth.synthesis.task import load_attention


class EditTask(L.LightningModule):
    """Paints the rows of a table of requests (see `EditDataModule`) and writes them; nothing is trained.

    `out/<id>.png` (`.dcm` for DICOM images), `out/<id>.region.png` and `out/<id>.json`. A row that cannot be painted
    gets a `.json` with `refused`, and the others go on. What is there already, made by the same request, is left alone.

    Args:
        checkpoint: An inpainter: nih or phantom, which come with the package, or the path of one.
        out: The folder to write to.
        attention: An attention.ckpt, for rows with map_from; None = the one beside the inpainter's, if there is one.
        solver: See `edit`, as for the next three.
        steps: Of the solver.
        guidance: Of the condition.
        feather: Of the edge.
    """

    def __init__(
        self,
        checkpoint: str,
        out: str,
        attention: str | None = None,
        solver: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        feather: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        """Read the networks. Not in `__init__`, where they would take this task's hyperparameters for their own."""
        hp = self.hparams
        beside = Path(hp["attention"] or find_inpainter(hp["checkpoint"]).with_name("attention.ckpt"))
        self.inpainter = load_inpainter(hp["checkpoint"])
        self.checkpoints = {"inpainting": sha256_file(find_inpainter(hp["checkpoint"]))}
        self.attention: GLoRITask | None = None
        if hp["attention"] or beside.is_file():
            self.attention = load_attention(str(beside))
            self.checkpoints["attention"] = sha256_file(beside)
        self.settings = {name: hp[name] for name in ("solver", "steps", "guidance", "feather")}

    @torch.no_grad()
    def predict_step(self, batch: list[Request], batch_idx: int) -> list[dict[str, Any]]:
        """Paint and write some requests; gives their records."""
        return [self._make(request) for request in batch]

    def _make(self, request: Request) -> dict[str, Any]:
        asked = {name: value for name, value in request.items() if name not in ("id", "image")}
        folder = Path(self.hparams["out"])
        recipe = recipe_hash({**request, **self.settings, **self.checkpoints, "version": __version__})
        made = _made(folder / f"{request['id']}.json", recipe)
        if made is not None:
            return made
        about = {"id": request["id"], "recipe": recipe}
        try:
            edited = edit(
                request["image"],
                checkpoint=self.inpainter,
                attention=self.attention,
                device=str(self.device),
                **asked,
                **self.settings,
            )
        except UserError as error:
            refused = {**about, "refused": str(error)}
            write_json(record_path(folder / f"{request['id']}.png"), refused)
            return refused
        edited.record.update(about, checkpoints=self.checkpoints)
        suffix = ".dcm" if is_dicom(Path(request["image"])) else ".png"
        return save(edited, folder / f"{request['id']}{suffix}", folder / f"{request['id']}.region.png")


def _made(path: Path, recipe: str) -> dict[str, Any] | None:
    """The record of a finished request; None where it is missing, of other settings, or of another image."""
    try:
        record = json.loads(path.read_text())
        image = path.with_name(record["image"])
        whole = record["recipe"] == recipe and sha256_file(image) == record["image_sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return record if whole else None
