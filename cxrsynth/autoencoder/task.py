"""Training of the autoencoder."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from monai.losses import JukeboxLoss, PatchAdversarialLoss, SSIMLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from cxrsynth.autoencoder.autoencoder import Autoencoder
from cxrsynth.autoencoder.checkpoint import OWN_ENTRY, load_autoencoder
from cxrsynth.autoencoder.crops import random_windows
from cxrsynth.autoencoder.figures import high_frequency_power
from cxrsynth.autoencoder.losses import kl_divergence
from cxrsynth.autoencoder.moments import RunningMoments
from cxrsynth.encoder.schedules import cosine
from cxrsynth.errors import UserError


class AutoencoderTask(L.LightningModule):
    """Learns to put windows of films into few latents and back (Rombach et al. 2021, arXiv 2112.10752).

    Loss: mean absolute error, structure (SSIM), amplitudes of the Fourier transform, and the divergence of the latents
    from the standard normal; with `adversarial` also a discriminator of patches. The scale of the latents is measured
    along the way (see `RunningMoments`) and lies in every checkpoint.

    Args:
        size: Side of the windows in pixels; a multiple of the autoencoder's `reduction`.
        channels: See `Autoencoder`; as are the next six.
        latent_channels: Channels of the latents.
        num_res_blocks: Residual blocks a level.
        attention: For each level, whether its blocks attend.
        encoder_attention: Whether the encoder attends at its lowest resolution.
        decoder_attention: The same of the decoder.
        norm_groups: Groups of the group norms.
        pretrained: A file to begin with (see `load_autoencoder`), whose sizes then count; in a checkpoint those sizes.
        kl: Weight of the divergence, summed over an image's latents.
        structure: Weight of 1 - SSIM.
        spectrum: Weight of the mean square difference of the Fourier amplitudes.
        adversarial: Weight of the discriminator's opinion; 0 = no discriminator.
        adversarial_start: Step from which that counts; the discriminator learns from the first.
        minimum: Smallest window, in parts of the image's side, as the inpainter's.
        bf16: Compute in bfloat16.
        recompute: Gradient checkpointing.
        lr: Peak learning rate of AdamW, reached after `warmup` steps; then a cosine to 0.
        warmup: Steps.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient where there is a discriminator; elsewhere the Trainer's `gradient_clip_val`.
        seed: Of the draws of training; they depend on it and on the step alone.
    """

    def __init__(
        self,
        size: int = 64,
        channels: Sequence[int] = (32, 64, 64),
        latent_channels: int = 4,
        num_res_blocks: int = 1,
        attention: Sequence[bool] | None = None,
        encoder_attention: bool = False,
        decoder_attention: bool = False,
        norm_groups: int = 16,
        pretrained: str | dict[str, Any] | None = None,
        kl: float = 1e-6,
        structure: float = 0.5,
        spectrum: float = 1.0,
        adversarial: float = 0.0,
        adversarial_start: int = 1000,
        minimum: float = 0.375,
        bf16: bool = False,
        recompute: bool = False,
        lr: float = 2e-3,
        warmup: int = 50,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        self.save_hyperparameters()
        if not 0 < minimum <= 1:
            raise UserError(f"minimum is {minimum}; give a share of the image's side, above 0 and at most 1")
        weights: Mapping[str, Tensor] = {}
        config: dict[str, Any] = {
            "channels": channels,
            "latent_channels": latent_channels,
            "num_res_blocks": num_res_blocks,
            "attention": attention,
            "encoder_attention": encoder_attention,
            "decoder_attention": decoder_attention,
            "norm_groups": norm_groups,
        }
        if isinstance(pretrained, str):
            given = load_autoencoder(pretrained)
            config, weights = given.config, given.state_dict()
            self.hparams["pretrained"] = config  # so that a checkpoint needs the file no more
        elif pretrained is not None:
            config = pretrained
        self.autoencoder = Autoencoder(**config, bf16=bf16, recompute=recompute)
        if weights:
            self.autoencoder.load_state_dict(weights)
        if size % self.autoencoder.reduction:
            raise UserError(f"size is {size}; this autoencoder takes multiples of {self.autoencoder.reduction} pixels")
        self.moments = RunningMoments()
        self.ssim, self.spectrum = SSIMLoss(spatial_dims=2), JukeboxLoss(spatial_dims=2)
        if adversarial:
            self.automatic_optimization = False  # two optimisers
            self.discriminator = PatchDiscriminator(spatial_dims=2, channels=32, in_channels=1, num_layers_d=2)
            self.opinion = PatchAdversarialLoss()

    def forward(self, image: Tensor) -> Tensor:
        """Images `[B, 1, H, W]` in [0, 1] through the latents' means and back, clamped to [0, 1]."""
        return self.autoencoder.decode_unscaled(self.autoencoder.posterior(image)[0]).clamp(0, 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say where `load_autoencoder` finds the network."""
        checkpoint[OWN_ENTRY] = {"config": self.autoencoder.config, "prefix": "autoencoder."}

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor | None:
        """Loss of a window of each image of a batch."""
        place = [self.hparams["seed"], self.current_epoch, batch_idx, self.global_rank]
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        image = random_windows(batch["image"], self.hparams["size"], self.hparams["minimum"], generator)
        mean, deviation = self.autoencoder.posterior(image)
        self.moments.update(mean.detach())
        self.autoencoder.scale.copy_(1 / self.moments.deviation)
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        made = self.autoencoder.decode_unscaled(mean + deviation * noise)
        loss = self._reconstruction(made, image) + self.hparams["kl"] * kl_divergence(mean, deviation)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        if self.automatic_optimization:
            return loss
        self._take_turns(loss, made, image)
        return None

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Figures of reconstruction (see `_evaluate`)."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """The same on test images."""
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Reconstructions of a batch's whole images, at the working resolution."""
        size = (self.hparams["size"],) * 2
        return self(F.interpolate(batch["image"], size, mode="bilinear", antialias=True, align_corners=False))

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine, one for each network."""
        hp = self.hparams
        networks = [self.autoencoder] if self.automatic_optimization else [self.autoencoder, self.discriminator]
        total = int(self.trainer.estimated_stepping_batches)
        optimizers = [torch.optim.AdamW(n.parameters(), hp["lr"], weight_decay=hp["weight_decay"]) for n in networks]
        return optimizers, [
            {
                "scheduler": torch.optim.lr_scheduler.LambdaLR(
                    optimizer, lambda step: cosine(step, total, 1.0, 0.0, hp["warmup"])
                ),
                "interval": "step",
            }
            for optimizer in optimizers
        ]

    def _reconstruction(self, made: Tensor, image: Tensor) -> Tensor:
        hp = self.hparams
        loss = F.l1_loss(made, image)
        if hp["structure"]:
            loss = loss + hp["structure"] * self.ssim(made, image)
        if hp["spectrum"]:
            loss = loss + hp["spectrum"] * self.spectrum(made, image)
        return loss

    def _take_turns(self, loss: Tensor, made: Tensor, image: Tensor) -> None:
        """A step of the autoencoder with the discriminator's opinion, then one of the discriminator."""
        ours, theirs = cast(list[LightningOptimizer], self.optimizers())
        opinion = self.opinion(self.discriminator(made), target_is_real=True, for_discriminator=False)
        if self.global_step >= self.hparams["adversarial_start"]:
            loss = loss + self.hparams["adversarial"] * opinion
        self._step(ours, loss)
        fake = self.opinion(self.discriminator(made.detach()), target_is_real=False, for_discriminator=True)
        real = self.opinion(self.discriminator(image), target_is_real=True, for_discriminator=True)
        self._step(theirs, (fake + real) / 2, counted=False)
        self.log("train/discriminator", (fake + real) / 2, batch_size=len(image))
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()

    def _step(self, optimizer: LightningOptimizer, loss: Tensor, counted: bool = True) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer.optimizer, gradient_clip_val=self.hparams["clip"], gradient_clip_algorithm="norm")
        # Lightning counts every optimiser's steps; only one a batch shall count against `max_steps`
        (optimizer if counted else optimizer.optimizer).step()

    def _evaluate(self, split: str, batch: Mapping[str, Any], batch_idx: int) -> None:
        """PSNR, SSIM, the share of fine detail that is left, and the spread of the scaled latents, which should be 1.

        The windows are the same every time.
        """
        generator = torch.Generator().manual_seed(batch_idx)
        image = random_windows(batch["image"], self.hparams["size"], self.hparams["minimum"], generator)
        mean, _ = self.autoencoder.posterior(image)
        made = self.autoencoder.decode_unscaled(mean).clamp(0, 1)
        figures = {
            "loss": self._reconstruction(made, image),
            "psnr": peak_signal_noise_ratio(made, image, data_range=1.0, dim=(1, 2, 3)),
            "ssim": cast(Tensor, structural_similarity_index_measure(made, image, data_range=1.0)),
            "detail": (high_frequency_power(made) / high_frequency_power(image).clamp_min(1e-12)).mean(),
            "latent_std": (mean * self.autoencoder.scale).std(),
        }
        for name, value in figures.items():
            self.log(f"{split}/{name}", value, prog_bar=name in ("loss", "psnr"), batch_size=len(image), sync_dist=True)
