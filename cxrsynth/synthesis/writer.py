"""Writes what the synthesis task makes: image, region, map and record, each whole or not at all."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from lightning.pytorch.callbacks import BasePredictionWriter

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import write_png
from cxrsynth.files import sha256_file
from cxrsynth.synthesis.outputs import write_outputs
from cxrsynth.synthesis.provenance import gather, made_records, write_record
from cxrsynth.synthesis.selection import Selection
from cxrsynth.synthesis.task import Made, Refused


class SynthesisWriter(BasePredictionWriter):
    """Writes each prediction as it comes, from any number of ranks, and gathers the provenance at the end.

    Files are written by threads while the next images are painted. What could not be written stops the run.

    Args:
        out: The run folder.
        threads: That write.
        waiting: Images that may wait to be written; when there are more, painting waits.
        selection: How images are selected once all are made; None accepts all.
    """

    def __init__(self, out: str, threads: int = 2, waiting: int = 32, selection: Selection | None = None) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(out)
        self.selection = selection
        self.threads = threads
        self.waiting = waiting
        self._pool: ThreadPoolExecutor | None = None
        self._writing: deque[Future[None]] = deque()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the threads, in the process that will use them."""
        super().setup(trainer, pl_module, stage)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="writer")
        self._writing.clear()

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
        """Hand the images of one batch to the threads."""
        assert self._pool is not None
        for item in prediction:
            self._writing.append(self._pool.submit(self._write, item))
            self._finish(self.waiting)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gather the records and write the tables (see `write_outputs`) once every rank has written.

        Here and not in `on_predict_end`, which Lightning leaves out where nothing was left to predict.
        """
        self._finish(0)
        if self._pool is not None:
            self._pool.shutdown()
        trainer.strategy.barrier()
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if self.selection is not None:
            self._select(trainer, datamodule.plan, datamodule.manifest)
        if trainer.is_global_zero:
            made = gather(self.folder, datamodule.plan, selected=self.selection is not None)
            write_outputs(self.folder, made, datamodule.manifest.table)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let what is being written be written, and drop the rest."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, remaining: int) -> None:
        """Wait until at most so many images are being written; raises what stopped one."""
        while len(self._writing) > remaining or (self._writing and self._writing[0].done()):
            self._writing.popleft().result()

    def _write(self, item: Made | Refused) -> None:
        """Write the files of one image; its record is written last."""
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

    def _select(self, trainer: L.Trainer, plan: pd.DataFrame, manifest: Manifest) -> None:
        """Judge the images that were made, each rank its share."""
        assert self.selection is not None
        if trainer.is_global_zero:
            self.selection.prepare(self.folder, manifest)
        trainer.strategy.barrier()
        made = [record for record in made_records(self.folder, plan) if "refused" not in record]
        self.selection.judge(self.folder, made[trainer.global_rank :: trainer.world_size], manifest)
        trainer.strategy.barrier()
