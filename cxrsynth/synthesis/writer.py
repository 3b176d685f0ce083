"""Writes what the synthesis task makes: image, region, map and record, each whole or not at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter

from cxrsynth.data.reading import write_png
from cxrsynth.files import sha256_file
from cxrsynth.synthesis.outputs import write_outputs
from cxrsynth.synthesis.plan import read_plan
from cxrsynth.synthesis.provenance import gather, write_record
from cxrsynth.synthesis.task import Made, Refused


class SynthesisWriter(BasePredictionWriter):
    """Writes each prediction as it comes, from any number of ranks, and gathers the provenance at the end.

    Args:
        out: The run folder.
    """

    def __init__(self, out: str) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(out)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: list[Made | Refused],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the files of one batch; an image's record is written last."""
        for item in prediction:
            record = item.record
            if isinstance(item, Made):
                files = {name: self.folder / f"{name}s" / f"{record['id']}.png" for name in ("image", "region", "map")}
                item.image.save_png(files["image"])
                write_png(files["region"], item.region.astype(np.uint8) * 255)
                write_png(files["map"], item.map)
                paths = {name: str(path.relative_to(self.folder)) for name, path in files.items()}
                hashes = {f"{name}_sha256": sha256_file(path) for name, path in files.items()}
                record = {"id": record["id"], **paths, **record, **hashes}
            write_record(self.folder, record)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the records and write the tables (see `write_outputs`) once every rank has written."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            datamodule = trainer.datamodule  # type: ignore[attr-defined]
            made = gather(self.folder, read_plan(datamodule.hparams["plan"]))
            write_outputs(self.folder, made, datamodule.manifest.table)
