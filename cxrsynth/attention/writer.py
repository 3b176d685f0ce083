"""Writes what a GLoRI task sees in images: probabilities in one table, maps one file a finding."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from cxrsynth.attention.maps import finding_map
from cxrsynth.attention.task import GLoRITask
from cxrsynth.data.reading import write_png
from cxrsynth.errors import UserError
from cxrsynth.files import inside, write_text


class MapWriter(BasePredictionWriter):
    """Writes `probabilities.csv` and `maps/<image_id>/<finding>.png` (8-bit grey, the largest value white).

    Args:
        out: Folder.
        findings: Findings whose maps are made; None is all, an empty list none.
        per_head: Whether each head's own map is made, `<finding>.<head>.png`, rather than their mean.
        size: Side of the maps in pixels: of the square that the network sees, upsampled bilinearly; 0 keeps the
            resolution of the patches.
        gamma: Exponent that brightens maps (see `finding_map`).
    """

    def __init__(
        self,
        out: str,
        findings: list[str] | None = None,
        per_head: bool = False,
        size: int = 0,
        gamma: float = 0.5,
    ) -> None:
        super().__init__(write_interval="batch")
        if size < 0 or gamma <= 0:
            raise UserError(f"size is {size} and gamma {gamma}; give 0 or more pixels and a gamma above 0")
        self.folder, self.findings, self.per_head, self.size, self.gamma = Path(out), findings, per_head, size, gamma
        self._rows: dict[str, list[float]] = {}

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: dict[str, Any],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Make and write the maps of one batch, and keep its probabilities."""
        assert isinstance(pl_module, GLoRITask)
        ids = prediction["image_id"]
        self._rows |= dict(zip(ids, prediction["logits"].sigmoid().tolist(), strict=True))
        names = pl_module.findings if self.findings is None else self.findings
        if names:
            maps = pl_module.maps(batch["image"], names, self.per_head).float().cpu()
            for image_id, one in zip(ids, maps, strict=True):
                self._write(image_id, names, one if self.per_head else one[None])

    def _write(self, image_id: str, names: Sequence[str], maps: Tensor) -> None:
        height, width = maps.shape[-2:]
        side = (self.size, self.size) if self.size else (height, width)
        pixels = (255 * finding_map(maps, side, self.gamma)).round().numpy().astype(np.uint8)
        for head, of_head in enumerate(pixels):
            for name, map in zip(names, of_head, strict=True):
                suffix = f".{head}" if self.per_head else ""
                write_png(inside(self.folder / "maps", f"{image_id}/{name}{suffix}.png"), map)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the table once every rank has seen its images."""
        assert isinstance(pl_module, GLoRITask)
        gathered: list[dict[str, list[float]]] = [self._rows]
        if trainer.world_size > 1:
            gathered = [{}] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self._rows)
        if trainer.is_global_zero:
            rows = {image_id: row for part in gathered for image_id, row in part.items()}
            table = pd.DataFrame.from_dict(rows, orient="index", columns=pl_module.findings).sort_index()
            write_text(self.folder / "probabilities.csv", table.to_csv(index_label="image_id", lineterminator="\n"))
        self._rows = {}
