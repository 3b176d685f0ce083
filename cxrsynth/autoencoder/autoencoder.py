"""MONAI's AutoencoderKL of one channel, with the scale of its latents."""

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn

from cxrsynth.errors import UserError
from cxrsynth.precision import autocast


class Autoencoder(nn.Module):
    """Maps images to latents of unit spread, at a fraction of their resolution, and back.

    Rombach et al. 2021 (arXiv 2112.10752). The network sees images in [0, 1], as MONAI's published ones do.

    Args:
        channels: Width of each level; every level but the first halves the resolution.
        latent_channels: Channels of the latents.
        num_res_blocks: Residual blocks a level; one number, or one by level.
        attention: For each level, whether its blocks attend; None = nowhere.
        encoder_attention: Whether the encoder attends at its lowest resolution.
        decoder_attention: The same of the decoder.
        norm_groups: Groups of the group norms; divides every entry of `channels`.
        transposed: Whether the decoder enlarges by transposed convolutions, not nearest neighbours.
        include_fc: Whether attention ends in a linear layer.
        combined_linear: Whether attention has one linear layer for query, key and value.
        bf16: Compute in bfloat16 where the machine can (see `autocast`); weights and results stay float32.
        recompute: Gradient checkpointing: less memory, slower steps.

    Attributes:
        scale: What the encoder's means are multiplied with, 1 / their standard deviation (section 4.3.2); a buffer,
            NaN until it is known.
        reduction: Pixels of an image along the side of one latent.
        config: The arguments that say which weights fit.

    Raises:
        UserError: Widths that `norm_groups` does not divide, or lists of other lengths than `channels`.
    """

    scale: Tensor

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 64),
        latent_channels: int = 4,
        num_res_blocks: int | Sequence[int] = 1,
        attention: Sequence[bool] | None = None,
        encoder_attention: bool = False,
        decoder_attention: bool = False,
        norm_groups: int = 16,
        transposed: bool = False,
        include_fc: bool = True,
        combined_linear: bool = False,
        bf16: bool = False,
        recompute: bool = False,
    ):
        super().__init__()
        blocks = [num_res_blocks] * len(channels) if isinstance(num_res_blocks, int) else list(num_res_blocks)
        attends = [False] * len(channels) if attention is None else list(attention)
        if any(width % norm_groups for width in channels):
            raise UserError(f"channels is {list(channels)}; with norm_groups {norm_groups} give multiples of it")
        if not len(blocks) == len(attends) == len(channels):
            raise UserError(
                f"channels names {len(channels)} levels, num_res_blocks {len(blocks)}, attention {len(attends)}; "
                "give one value a level"
            )
        self.bf16, self.latent_channels, self.reduction = bf16, latent_channels, 2 ** (len(channels) - 1)
        self.config: dict[str, Any] = {
            "channels": list(channels),
            "latent_channels": latent_channels,
            "num_res_blocks": blocks,
            "attention": attends,
            "encoder_attention": encoder_attention,
            "decoder_attention": decoder_attention,
            "norm_groups": norm_groups,
            "transposed": transposed,
            "include_fc": include_fc,
            "combined_linear": combined_linear,
        }
        self.network = AutoencoderKL(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=tuple(channels),
            latent_channels=latent_channels,
            num_res_blocks=blocks,
            attention_levels=attends,
            with_encoder_nonlocal_attn=encoder_attention,
            with_decoder_nonlocal_attn=decoder_attention,
            norm_num_groups=norm_groups,
            use_convtranspose=transposed,
            include_fc=include_fc,
            use_combined_linear=combined_linear,
            use_flash_attention=torch.cuda.is_available(),
            use_checkpoint=recompute,
        )
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.register_buffer("scale", torch.tensor(torch.nan))

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents' distribution, without the scale.

        Args:
            image: `[B, 1, H, W]` in [0, 1]; H and W divisible by `reduction`.

        Returns:
            Two tensors, float32 `[B, latent_channels, H / reduction, W / reduction]`.
        """
        with autocast(image.device, self.bf16):
            mean, deviation = self.network.encode(image.contiguous(memory_format=torch.channels_last))
        return mean.float(), deviation.float()

    def encode(self, image: Tensor) -> Tensor:
        """The mean latents of images, scaled; see `posterior`."""
        return self.posterior(image)[0] * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """Images, float32 `[B, 1, H, W]`, of scaled latents; not clamped to [0, 1].

        Always computed in float32: the steps of bfloat16 would be grain in an image.
        """
        return self.decode_unscaled(latent / self.scale, bf16=False)

    def decode_unscaled(self, latent: Tensor, bf16: bool | None = None) -> Tensor:
        """Images of latents as `posterior` gives them, computed in bfloat16 where asked for (None = as built)."""
        with autocast(latent.device, self.bf16 if bf16 is None else bf16):
            return self.network.decode(latent.contiguous(memory_format=torch.channels_last)).float()
