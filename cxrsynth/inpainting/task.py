"""Training the velocity field."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.coupling import couple
from cxrsynth.inpainting.ema import ExponentialMovingAverage
from cxrsynth.inpainting.examples import Examples, draw_examples
from cxrsynth.inpainting.inpaint import inpaint
from cxrsynth.inpainting.path import flow_loss, straight_path
from cxrsynth.inpainting.regions import check_mix
from cxrsynth.inpainting.unet import VelocityUNet
from cxrsynth.inpainting.velocity import VelocityField


class InpaintingTask(L.LightningModule):
    """Flow-matching inpainting conditioned on findings.

    Args:
        findings: Names of the findings, in the order of the batch's targets.
        size: Working resolution, pixels; divisible by `patch * 2 ** (levels - 1)`.
        channels: Channels of each resolution level (see `VelocityUNet`, also for the next six).
        attention: For each level, whether its blocks attend.
        num_res_blocks: Residual blocks a level.
        head_channels: Channels of an attention head.
        norm_groups: Groups of the group norms.
        patch: Side of the pixel blocks that the network sees as one position.
        bf16: Compute in bfloat16.
        lr: Peak learning rate of AdamW, reached after `warmup` steps; then a cosine to 0 where the length is known.
        warmup: Steps.
        weight_decay: Of AdamW.
        ema_decay: Largest decay of the weight average; the average is what paints.
        drop_all: Probability that an image loses its whole condition in training.
        drop_each: Probability that a finding is forgotten on its own in training.
        regions: Weight of each kind of training region: attention, blob, box, full.
        share: Range of the share of a map's mass that its training region holds.
        context: Margin of the window, in parts of the region's extent.
        minimum: Smallest window, in parts of the image's longer side.
        jitter: Random change of training windows, in parts of their side.
        solver: Of `inpaint`; as are `steps` and `guidance`.
        steps: Of the solver.
        guidance: Weight of classifier-free guidance.
    """

    def __init__(
        self,
        findings: Sequence[str],
        size: int = 48,
        channels: Sequence[int] = (32, 48, 64),
        attention: Sequence[bool] = (False, False, True),
        num_res_blocks: int = 1,
        head_channels: int = 16,
        norm_groups: int = 8,
        patch: int = 1,
        bf16: bool = False,
        lr: float = 1e-3,
        warmup: int = 50,
        weight_decay: float = 0.01,
        ema_decay: float = 0.995,
        drop_all: float = 0.1,
        drop_each: float = 0.1,
        regions: dict[str, float] | None = None,
        share: Sequence[float] = (0.35, 0.7),
        context: float = 0.25,
        minimum: float = 0.375,
        jitter: float = 0.15,
        solver: str = "midpoint",
        steps: int = 10,
        guidance: float = 2.0,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.regions = regions or {"attention": 0.6, "blob": 0.2, "box": 0.15, "full": 0.05}
        check_mix(self.regions)
        self.velocity = VelocityUNet(
            len(findings), channels, attention, num_res_blocks, head_channels, norm_groups, patch=patch, bf16=bf16
        )
        self.average = ExponentialMovingAverage(self.velocity, ema_decay)

    @property
    def painter(self) -> VelocityField:
        """The averaged velocity field, which paints."""
        return cast(VelocityField, self.average.module)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch of the datamodule (`image`, `target`, `map`, `finding`)."""
        examples = self._examples(batch, self.hparams["jitter"], None)
        condition = examples.condition.dropped(self.hparams["drop_all"], self.hparams["drop_each"])
        loss = self._loss(self.velocity, examples, condition, None)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average after each step."""
        self.average.update(self.velocity)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Loss of the averaged field, at regions, noise and times that are the same in every epoch."""
        generator = torch.Generator().manual_seed(batch_idx)
        examples = self._examples(batch, 0.0, generator)
        loss = self._loss(self.painter, examples, examples.condition, generator)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(examples.image))

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Painted images of a batch with `image`, `region`, `findings [B, C]` and `seed` (list of int)."""
        return self.inpaint(batch["image"], batch["region"], Condition(batch["findings"]), seeds=batch["seed"])

    def inpaint(self, image: Tensor, region: Tensor, condition: Condition, **options: Any) -> Tensor:
        """`inpaint` with the averaged field and this task's settings; `options` (at least `seeds`) overrule them."""
        names = ("size", "solver", "steps", "guidance", "context", "minimum")
        settings = {name: self.hparams[name] for name in names}
        return inpaint(image, region, condition, **{"velocity": self.painter, **settings, **options})

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine."""
        hp = self.hparams
        optimizer = torch.optim.AdamW(self.velocity.parameters(), hp["lr"], weight_decay=hp["weight_decay"])
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / max(1, hp["warmup"]))
            return rise if math.isinf(total) else rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _examples(self, batch: Mapping[str, Any], jitter: float, generator: torch.Generator | None) -> Examples:
        hp = self.hparams
        low, high = hp["share"]
        return draw_examples(
            batch,
            size=hp["size"],
            regions=self.regions,
            share=(low, high),
            context=hp["context"],
            minimum=hp["minimum"],
            jitter=jitter,
            generator=generator,
        )

    def _loss(
        self, field: VelocityField, examples: Examples, condition: Condition, generator: torch.Generator | None
    ) -> Tensor:
        image, region = examples.image, examples.region
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        # One time in each of B equal parts of [0, 1]: the same distribution as B free draws, with a steadier loss.
        t = ((torch.arange(len(image)) + torch.rand(len(image), generator=generator)) / len(image)).to(image.device)
        t = t[torch.randperm(len(image), generator=generator).to(image.device)]
        sample = straight_path(couple(image, region, noise), image, t)
        velocity = field(sample.x, t, region, examples.coordinates, condition)
        return flow_loss(velocity, sample.target, region)


def load_inpainter(path: str | Path, device: str = "cpu") -> InpaintingTask:
    """An inpainter from its checkpoint, in eval mode; it paints with the averaged weights.

    Args:
        path: A checkpoint written by Lightning.
        device: Where to put it.

    Raises:
        UserError: The file is missing or not an inpainter's checkpoint.
    """
    try:
        task = InpaintingTask.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path} does not exist; give the path of an inpainting.ckpt") from error
    except Exception as error:
        raise UserError(f"checkpoint {path} is not an inpainter's ({type(error).__name__}: {error})") from error
    return task.eval().to(device)
