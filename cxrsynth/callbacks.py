"""Progress that reads well in a terminal and in a log file."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar


class PlainProgress(Callback):
    """One line every few seconds: step, loss, time. For logs and pipes, where progress bars break.

    Args:
        name: What is being trained; starts each line.
        every: Seconds between lines.
    """

    def __init__(self, name: str = "fit", every: float = 15.0) -> None:
        self.name = name
        self.every = every
        self._start = self._last = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start = self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line when one is due."""
        now = time.monotonic()
        if now - self._last >= self.every and trainer.is_global_zero:
            self._last = now
            self._print(trainer, now)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the last line."""
        if trainer.is_global_zero:
            self._print(trainer, time.monotonic())

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line when one is due."""
        now = time.monotonic()
        if now - self._last >= self.every and trainer.is_global_zero:
            self._last = now
            total = trainer.num_predict_batches[dataloader_idx]
            print(f"  {self.name:<14} batch {batch_idx + 1}/{total}", flush=True)

    def _print(self, trainer: L.Trainer, now: float) -> None:
        steps = trainer.estimated_stepping_batches
        metrics = {
            k: float(v) for k, v in trainer.callback_metrics.items() if k in ("train/loss", "val/loss", "val/auroc")
        }
        shown = "  ".join(f"{name} {value:.3f}" for name, value in sorted(metrics.items()))
        print(f"  {self.name:<14} step {trainer.global_step}/{steps}  {shown}  {now - self._start:.0f} s", flush=True)


def progress(name: str) -> Callback:
    """A rich bar on a terminal, plain lines elsewhere."""
    return RichProgressBar(leave=True) if sys.stdout.isatty() else PlainProgress(name)
