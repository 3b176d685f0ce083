"""The velocity field: MONAI's diffusion UNet, told the region, the place in the chest and the condition."""

from collections.abc import Sequence
from typing import Protocol

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from cxrsynth.inpainting.condition import Condition, ConditionEmbedder

DATA_STD = 0.5  # of chest X-rays in [-1, 1]


class VelocityField(Protocol):
    """Anything that gives `v(x_t, t, r, c)`, 0 outside the region."""

    def __call__(self, x: Tensor, t: Tensor, region: Tensor, coordinates: Tensor, condition: Condition) -> Tensor:
        """Velocity `[B, 1, H, W]`; see `VelocityUNet.forward`."""


class VelocityUNet(nn.Module):
    """MONAI's DiffusionModelUNet as a velocity field.

    The condition enters twice: as tokens of the cross-attention, and added to the time embedding, without which a short
    training does not follow it.

    Args:
        findings: Number of findings, C.
        channels: Channels of each resolution level.
        attention: For each level, whether its blocks attend.
        num_res_blocks: Residual blocks a level.
        head_channels: Channels of an attention head.
        norm_groups: Groups of the group norms; divides every entry of `channels`.
        token_width: Size of a condition token.
        patch: Side of the pixel blocks that the network sees as one position (space to depth); divides the image side.
        bf16: Compute in bfloat16 (autocast); weights and result stay float32.
    """

    def __init__(
        self,
        findings: int,
        channels: Sequence[int] = (32, 48, 64),
        attention: Sequence[bool] = (False, False, True),
        num_res_blocks: int = 1,
        head_channels: int = 16,
        norm_groups: int = 8,
        token_width: int = 32,
        patch: int = 1,
        bf16: bool = False,
    ):
        super().__init__()
        self.bf16 = bf16
        self.fold, self.unfold = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=4 * patch**2,
            out_channels=patch**2,
            channels=tuple(channels),
            attention_levels=tuple(attention),
            num_res_blocks=num_res_blocks,
            num_head_channels=head_channels,
            norm_num_groups=norm_groups,
            with_conditioning=True,
            cross_attention_dim=token_width,
            use_flash_attention=torch.cuda.is_available(),  # on a CPU MONAI's plain attention is faster at these sizes
            num_class_embeds=1,  # opens the door through which the condition joins the time embedding
        )
        self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.unet.class_embedding = nn.Identity()  # type: ignore[assignment]
        self.embed = ConditionEmbedder(findings, token_width, 4 * channels[0])

    def forward(self, x: Tensor, t: Tensor, region: Tensor, coordinates: Tensor, condition: Condition) -> Tensor:
        """Velocity at `x`, 0 outside the region.

        Args:
            x: x_t, float32 `[B, 1, H, W]`; H and W divisible by `patch * 2 ** (levels - 1)`.
            t: Times in [0, 1], `[B]`.
            region: r in {0, 1}, `[B, 1, H, W]`.
            coordinates: Where each pixel lies in the chest, `[B, 2, H, W]` in [-1, 1] (see `Windows.coordinates`).
            condition: For B images.

        Returns:
            float32 `[B, 1, H, W]`.
        """
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            tokens, vector = self.embed(condition)
            inputs = self.fold(torch.cat([x, region, coordinates], 1)).contiguous(memory_format=torch.channels_last)
            out = self.unet(inputs, 1000 * t, context=tokens, class_labels=vector)  # MONAI counts time in 0..1000
        skip, scale = preconditioning(t.view(-1, 1, 1, 1))
        return region * (skip * x + scale * self.unfold(out.float()))


def preconditioning(t: Tensor) -> tuple[Tensor, Tensor]:
    """What of the velocity is known from x_t alone, so that the network need not learn to copy noise.

    For x1 of mean 0 and variance s^2 and standard normal noise z, the best linear guess of `x1 - z` from
    `x_t = (1 - t) z + t x1` is `skip * x_t`, and what it leaves unexplained has the standard deviation `scale`: with
    `D = (1 - t)^2 + t^2 s^2`, `skip = (t s^2 - (1 - t)) / D` and `scale = s / sqrt(D)` (the idea of Karras et al. 2022,
    arXiv 2206.00364, section 5, on the straight path).

    Args:
        t: Times in [0, 1], any shape.

    Returns:
        `skip` and `scale`, shaped like `t`.
    """
    variance = DATA_STD**2
    total = (1 - t) ** 2 + t**2 * variance
    return (t * variance - (1 - t)) / total, DATA_STD / total.sqrt()
