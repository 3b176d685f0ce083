"""What is watched while an encoder learns without labels."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from cxrsynth.data.targets import FindingMetrics
from cxrsynth.encoder.probe import PROBES, summary_vector


class EncoderProbe(L.Callback):
    """Logs `val/knn_auroc` and `val/linear_auroc`: how well findings can be read from the teacher's features.

    The probes learn from training images and are asked about validation images, so about other patients. 0.5 is chance.

    Args:
        bank: At most this many training images of each process teach the probes.
    """

    def __init__(self, bank: int = 2000):
        self.bank = bank
        self._seen: list[tuple[Tensor, Tensor]] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the images of the last validation."""
        self._seen = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the task saw of a batch."""
        self._seen.append((outputs["features"], batch["target"]))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Teach the probes, ask them, log."""
        taught = self._teach(trainer, pl_module)
        if not self._seen or taught is None:
            return
        features, target = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        for name, probe in PROBES.items():
            metrics = FindingMetrics(target.shape[1]).to(target.device)
            scores = probe(*taught, features)
            metrics.update(scores.logit(eps=1e-6), target.where(~scores.isnan(), torch.nan))
            pl_module.log(f"val/{name}_auroc", metrics.compute()["auroc"].nanmean(), prog_bar=True, sync_dist=True)

    @torch.no_grad()
    def _teach(self, trainer: L.Trainer, task: L.LightningModule) -> tuple[Tensor, Tensor] | None:
        """Features and findings of training images, None where the Trainer was given none."""
        data = getattr(trainer, "datamodule", None)
        loader = data.train_dataloader() if data is not None else trainer.train_dataloader
        if loader is None:
            return None
        bank: list[tuple[Tensor, Tensor]] = []
        with trainer.precision_plugin.val_step_context():
            for batch in loader:
                batch = task.transfer_batch_to_device(batch, task.device, 0)
                bank.append((summary_vector(task(batch["image"])), batch["target"]))
                if len(bank) * len(batch["target"]) >= self.bank:
                    break
        features, target = (torch.cat(parts) for parts in zip(*bank, strict=True))
        return features, target
