"""Faster forwards of MONAI's diffusion UNet over the same weights, where no gradient is asked for."""

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import Tensor, nn

from cxrsynth.ops.convolution import conv3x3, filter_points, fits
from cxrsynth.ops.norm import norm_silu


def speed_up(unet: nn.Module) -> None:
    """Give the layers of a UNet their faster forwards, in place. Names and values of weights stay."""
    for module in unet.modules():
        if type(module) is nn.Conv2d and fits(module):
            module.__class__ = WinogradConv
        if type(module) is DiffusionUNetResnetBlock and module.spatial_dims == 2:
            module.__class__ = FusedResnetBlock


def plain(x: Tensor, weight: Tensor) -> bool:
    """Whether a fast path applies: on a CPU, in float32, without gradient, compiler and other processes.

    Sharded weights are gathered into the same memory again and again, so a change of theirs would not be noticed.
    """
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    here = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    return here and alone and not learns and not torch.compiler.is_compiling()


class WinogradConv(nn.Conv2d):
    """A convolution of 3 x 3 in a quarter of the multiplications (see `conv3x3`)."""

    kept: tuple[tuple[int, int, float], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, O, H, W]`."""
        if not plain(x, self.weight):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.detach()
        return conv3x3(x, self.weight.detach(), bias, self._points)

    def _points(self) -> Tensor:
        """The transformed weight, kept until it changes."""
        weight = self.weight.detach()
        # the sum, because fused optimisers and `.data` change a weight without counting a version
        state = (weight.data_ptr(), weight._version, float(weight.sum()))
        if self.kept is None or self.kept[0] != state:
            self.kept = (state, filter_points(weight))
        return self.kept[1]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "kept"}


class FusedResnetBlock(DiffusionUNetResnetBlock):
    """MONAI's block with each normalisation and the SiLU after it as one pass (see `norm_silu`).

    The embedding of the time is added in the second of these passes.
    """

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map `[B, C, H, W]` and the embedding `[B, E]` to `[B, O, H', W']`, of the block's resolution."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x, emb)  # what the kernel cannot do
        h = _normed(x, self.norm1)
        for resize in (self.upsample, self.downsample):
            if resize is not None:
                x, h = resize(x), resize(h)
        shift = self.time_emb_proj(self.nonlinearity(emb))
        h = self.conv2(_normed(self.conv1(h), self.norm2, shift))
        output: Tensor = self.skip_connection(x) + h
        return output


def _normed(x: Tensor, norm: nn.GroupNorm, shift: Tensor | None = None) -> Tensor:
    return norm_silu(x, norm.num_groups, norm.weight.detach(), norm.bias.detach(), norm.eps, shift)
