"""Training, evaluation and prediction of the classifier."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from cxrsynth.classification.compact import CompactNet
from cxrsynth.classification.efficientnet import EfficientNet
from cxrsynth.classification.pretrained import load_pretrained
from cxrsynth.classification.residual import ResidualNet
from cxrsynth.data.targets import FindingMetrics, binary_cross_entropy, focal_loss, mix
from cxrsynth.errors import UserError

SMALL: dict[str, type[CompactNet] | type[ResidualNet]] = {"compact": CompactNet, "residual": ResidualNet}


class ClassificationTask(L.LightningModule):
    """Multi-label classification with the recipe of the paper: EfficientNet-B4, BCE, Adam 1e-4, ReduceLROnPlateau.

    Args:
        findings: Names of the outputs, in the order of the targets.
        network: "efficientnet-b0" to "efficientnet-b7"; "compact" or "residual" for runs of minutes on a CPU.
        weights: Local pretrained file (see `load_pretrained`), or None to train from scratch.
        lr: Learning rate; the highest one under "one_cycle".
        schedule: "plateau" lowers the rate when the validation loss stalls (needs validation data); "one_cycle" rises
            and falls once over the run (Smith and Topin 2018), for short runs from scratch.
        patience: Epochs without a better validation loss before "plateau" divides the rate by ten.
        weight_decay: Decoupled weight decay (0 = Adam as in the paper).
        batch_norm_momentum: See `EfficientNet`.
        drop_connect: See `EfficientNet`.
        pos_weight: Weight of a present finding in the training loss, one for each finding; None = 1.
        focal: Exponent gamma of the focal loss; 0 = plain cross-entropy.
        mixup: Parameter alpha of mixup; 0 = none.
        start: Checkpoint of this task whose network the training begins with.

    Raises:
        UserError: No findings, an unknown network or schedule, or weights that do not fit.
    """

    def __init__(
        self,
        findings: list[str],
        network: str = "efficientnet-b4",
        weights: str | None = None,
        lr: float = 1e-4,
        schedule: str = "plateau",
        patience: int = 2,
        weight_decay: float = 0.0,
        batch_norm_momentum: float = 0.1,
        drop_connect: float = 0.2,
        pos_weight: list[float] | None = None,
        focal: float = 0.0,
        mixup: float = 0.0,
        start: str | None = None,
    ) -> None:
        super().__init__()
        if not findings:
            raise UserError("findings is empty; name at least one finding to classify")
        if schedule not in ("plateau", "one_cycle"):
            raise UserError(f"schedule is {schedule!r}; choose plateau or one_cycle")
        if pos_weight is not None and (len(pos_weight) != len(findings) or focal):
            raise UserError(f"pos_weight has {len(pos_weight)} values; give one a finding, and no focal loss beside it")
        if focal < 0 or mixup < 0:
            raise UserError(f"focal is {focal} and mixup {mixup}; give 0 for none, or a positive number")
        self.save_hyperparameters()
        self.findings = list(findings)
        self.net: EfficientNet | CompactNet | ResidualNet
        if network in SMALL:
            if weights is not None:
                raise UserError(f"weights is {weights!r}, but there are no published weights for network {network}")
            self.net = SMALL[network](len(findings))
        else:
            self.net = EfficientNet(
                network, len(findings), batch_norm_momentum=batch_norm_momentum, drop_connect=drop_connect
            )
        self.val_metrics = FindingMetrics(len(findings))
        self.test_metrics = FindingMetrics(len(findings))

    def setup(self, stage: str) -> None:
        """Read the pretrained file when training starts, so that a checkpoint loads and resumes without it."""
        if stage == "fit" and self.hparams["weights"] is not None and self.trainer.ckpt_path is None:
            assert isinstance(self.net, EfficientNet)
            load_pretrained(self.net, self.hparams["weights"])
        if stage == "fit" and self.hparams["start"] is not None and self.trainer.ckpt_path is None:
            state = torch.load(self.hparams["start"], map_location="cpu", weights_only=True)["state_dict"]
            self.load_state_dict(state)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, C]` of images `[B, 1, H, W]` in [0, 1]."""
        return self.net(image)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Loss of a batch, which the datamodule has augmented."""
        image, target = mix(batch["image"], batch["target"], self.hparams["mixup"])
        logits = self(image)
        loss = self._loss(logits, target)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(logits))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Add a batch to the validation loss and metrics."""
        self._evaluate("val", self.val_metrics, batch)

    def test_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Add a batch to the test loss and metrics."""
        self._evaluate("test", self.test_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        """Log `val/auroc`, `val/auprc` and `val/auroc/<finding>`."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log `test/auroc`, `test/auprc` and `test/auroc/<finding>`."""
        self._log_metrics("test", self.test_metrics)

    def predict_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Probabilities `[B, C]` of the findings."""
        return self(batch["image"]).sigmoid()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam (AdamW under weight decay) with the chosen schedule."""
        lr, weight_decay = self.hparams["lr"], self.hparams["weight_decay"]
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=lr, weight_decay=weight_decay)
        if self.hparams["schedule"] == "one_cycle":
            total = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=total)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=self.hparams["patience"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss", "strict": False}}

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.hparams["focal"]:
            return focal_loss(logits, target, self.hparams["focal"])
        weight = self.hparams["pos_weight"]
        return binary_cross_entropy(logits, target, None if weight is None else logits.new_tensor(weight))

    def _evaluate(self, split: str, metrics: FindingMetrics, batch: dict[str, Any]) -> None:
        logits = self(batch["image"])
        loss = binary_cross_entropy(logits, batch["target"])
        self.log(f"{split}/loss", loss, prog_bar=True, batch_size=len(logits), sync_dist=True)
        metrics.update(logits, batch["target"])

    def _log_metrics(self, split: str, metrics: FindingMetrics) -> None:
        values = metrics.compute()
        metrics.reset()
        self.log(f"{split}/auroc", values["auroc"].nanmean(), prog_bar=True)
        self.log(f"{split}/auprc", values["auprc"].nanmean())
        self.log_dict(
            {f"{split}/auroc/{name}": value for name, value in zip(self.findings, values["auroc"], strict=True)}
        )
