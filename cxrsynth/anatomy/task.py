"""Training of the segmenter."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from monai.losses import DiceLoss
from monai.metrics import compute_dice
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.anatomy.segmenter import Segmenter


class SegmentationTask(L.LightningModule):
    """Dice and binary cross-entropy, AdamW, one cosine cycle.

    A structure that an image has no mask of is left out of loss and metrics. `save_segmenter(task.segmenter, path)`
    makes the file that `load_segmenter` reads.

    Args:
        structures: See `Segmenter`; in the order of the masks.
        size: See `Segmenter`.
        channels: See `Segmenter`.
        lr: Peak learning rate.
        weight_decay: Of AdamW.
        warmup: Share of the steps in which the learning rate rises.
    """

    def __init__(
        self,
        structures: list[str] | None = None,
        size: int = 128,
        channels: list[int] | None = None,
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.segmenter = Segmenter(structures or ["lungs", "heart"], size, channels or [16, 32, 64, 96])
        self.dice = DiceLoss(sigmoid=True, reduction="none")

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, C, S, S]` of images `[B, 1, S, S]` in [0, 1]."""
        return self.segmenter(image)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Loss of a batch."""
        loss = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Log the loss and each structure's Dice of a batch."""
        self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """The same on test images."""
        self._evaluate("test", batch)

    def predict_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Probabilities `[B, C, S, S]` of a batch."""
        return self(batch["image"]).sigmoid()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with one cosine cycle."""
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=self.hparams["weight_decay"])
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.hparams["lr"], total_steps=total, pct_start=self.hparams["warmup"]
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: dict[str, Any]) -> Tensor:
        """Mean over the known masks of Dice loss plus cross-entropy."""
        logits, mask, known = self(batch["image"]).float(), batch["mask"], batch["known"]
        entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").mean((2, 3))
        losses = self.dice(logits, mask).flatten(1) + entropy
        return (losses * known).sum() / known.sum().clamp_min(1)

    def _evaluate(self, split: str, batch: dict[str, Any]) -> None:
        self.log(f"{split}/loss", self._loss(batch), prog_bar=True, batch_size=len(batch["image"]), sync_dist=True)
        scores = compute_dice(self(batch["image"]) > 0, batch["mask"], include_background=True)
        for column, structure in enumerate(self.segmenter.structures):
            known = scores[batch["known"][:, column], column]
            known = known[~known.isnan()]  # an organ that is not on the film has no Dice
            if len(known):
                self.log(
                    f"{split}/dice/{structure}", known.mean(), prog_bar=True, batch_size=len(known), sync_dist=True
                )
