"""The velocity field: MONAI's diffusion UNet, told the region, the place in the chest and the condition."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.embedder import ConditionEmbedder, Embedded
from cxrsynth.inpainting.fast import speed_up
from cxrsynth.inpainting.parametrisation import Parametrisation, Preconditioned
from cxrsynth.precision import autocast


class VelocityUNet(nn.Module):
    """MONAI's DiffusionModelUNet as a velocity field (see `VelocityField`).

    The condition enters twice: as tokens of the cross-attention, and added to the time embedding, without which a short
    training does not follow it.

    Args:
        findings: Number of findings, C.
        channels: Channels of each resolution level.
        attention: For each level, whether its blocks attend.
        num_res_blocks: Residual blocks a level, one number or one by level.
        head_channels: Channels of an attention head, one number or one by level.
        norm_groups: Groups of the group norms; divides every entry of `channels`.
        token_width: Size of a condition token; None = no cross-attention, the condition joins the time alone.
        patch: Side of the pixel blocks that the network sees as one position (space to depth); divides the image side.
        bf16: Compute in bfloat16 where the machine can (see `autocast`); weights and result stay float32.
        fields: See `ConditionEmbedder`; as are `views` and `text`.
        views: Number of views.
        text: Encoder of texts.
        recompute: Keep no activations inside the blocks and compute them again on the way back (less memory, slower).
        state_channels: Channels of the state.
        parametrisation: What the output means; None = our own, for pixels.
        options: Further arguments of MONAI's network, for published weights.
    """

    def __init__(
        self,
        findings: int,
        channels: Sequence[int] = (32, 48, 64),
        attention: Sequence[bool] = (False, False, True),
        num_res_blocks: int | Sequence[int] = 1,
        head_channels: int | Sequence[int] = 16,
        norm_groups: int = 8,
        token_width: int | None = 32,
        patch: int = 1,
        bf16: bool = False,
        fields: Sequence[str] = (),
        views: int = 2,
        text: nn.Module | None = None,
        recompute: bool = False,
        state_channels: int = 1,
        parametrisation: Parametrisation | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.parametrisation, self.attends = parametrisation or Preconditioned(0.5), token_width is not None
        self.bf16, self.multiple = bf16, patch * 2 ** (len(channels) - 1)
        self.fold, self.unfold = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=(state_channels + 3) * patch**2,  # and the region, and two coordinates
            out_channels=state_channels * patch**2,
            channels=tuple(channels),
            attention_levels=tuple(attention),
            num_res_blocks=num_res_blocks,
            num_head_channels=head_channels,
            norm_num_groups=norm_groups,
            with_conditioning=self.attends,
            cross_attention_dim=token_width,
            use_flash_attention=torch.cuda.is_available(),  # on a CPU MONAI's plain attention is faster at these sizes
            **(options or {}),
            num_class_embeds=1,  # opens the door through which the condition joins the time embedding
        )
        self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        speed_up(self.unet)
        self.unet.class_embedding = nn.Identity()  # type: ignore[assignment]
        if recompute:
            for block in (*self.unet.down_blocks, self.unet.middle_block, *self.unet.up_blocks):
                block.forward = partial(_recomputed, block.forward)  # type: ignore[method-assign]
        self.embed = ConditionEmbedder(findings, token_width or 32, 4 * channels[0], fields, views, text, bf16=bf16)

    def forward(
        self, x: Tensor, t: Tensor, region: Tensor, coordinates: Tensor, condition: Condition | Embedded
    ) -> Tensor:
        """Velocity at `x`, 0 outside the region.

        Args:
            x: x_t, float32 `[B, Z, H, W]`; H and W divisible by `multiple`.
            t: See `VelocityField`; as are the others.
            region: See `VelocityField`.
            coordinates: See `VelocityField`.
            condition: See `VelocityField`.

        Returns:
            float32 `[B, Z, H, W]`.
        """
        told = self.embed(condition) if isinstance(condition, Condition) else condition
        terms = self.parametrisation(t)
        seen = x if terms.factor is None else terms.factor.view(-1, 1, 1, 1) * x
        with autocast(x.device, self.bf16):
            inputs = self.fold(torch.cat([seen, region, coordinates], 1)).contiguous(memory_format=torch.channels_last)
            tokens = told.tokens if self.attends else None
            out = self.unet(inputs, terms.time, context=tokens, class_labels=told.vector)
        return region * terms.velocity(x, self.unfold(out.float()))


def _recomputed(forward: Callable[..., Any], *inputs: Any, **others: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **others)
    return checkpoint(forward, *inputs, **others, use_reentrant=False)
