"""Writes what the synthesis task makes: image, region, map and record, each whole or not at all."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter

from cxrsynth.data.reading import write_png
from cxrsynth.files import sha256_file
from cxrsynth.synthesis.outputs import write_outputs
from cxrsynth.synthesis.provenance import gather, write_record
from cxrsynth.synthesis.task import Made, Refused


class SynthesisWriter(BasePredictionWriter):
    """Writes each prediction as it comes, from any number of ranks, and gathers the provenance at the end.

    Files are written by threads while the next images are painted. What could not be written stops the run.

    Args:
        out: The run folder.
        threads: That write.
        waiting: Images that may wait to be written; when there are more, painting waits.
    """

    def __init__(self, out: str, threads: int = 2, waiting: int = 32) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(out)
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
        if trainer.is_global_zero:
            datamodule = trainer.datamodule  # type: ignore[attr-defined]
            made = gather(self.folder, datamodule.plan)
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
