"""Faster forwards of MONAI's diffusion UNet on a CPU, over the same weights, where no gradient is asked for."""

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, WrappedUpsample
from torch import Tensor, nn
from torch.nn import functional as F

from cxrsynth.ops.norm import norm_silu


def speed_up(unet: nn.Module) -> None:
    """Give the layers of a UNet their faster forwards, in place. Names and values of weights stay."""
    for module in unet.modules():
        if type(module) is WrappedUpsample and hasattr(module, "postconv"):
            module.__class__ = FoldedUpsample
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


class FoldedUpsample(WrappedUpsample):
    """Nearest upsampling by 2 and a 3 x 3 convolution as one transposed convolution of 4 x 4.

    Of the nine taps those that fall on the same pixel are added up first: 2.25 times fewer multiplications.
    """

    folded: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Map `[B, C, H, W]` to `[B, O, 2H, 2W]`."""
        convolution = self.get_submodule("postconv.conv")
        assert isinstance(convolution, nn.Conv2d)
        if not plain(x, convolution.weight):
            return super().forward(x, emb)
        return F.conv_transpose2d(x, self._filter(convolution), convolution.bias, stride=2, padding=1)

    def _filter(self, convolution: nn.Conv2d) -> Tensor:
        """The folded weights, kept until the convolution's change."""
        weight = convolution.weight.detach()
        state = (weight.data_ptr(), convolution.weight._version)
        if self.folded is None or self.folded[0] != state:
            folded = _fold(_fold(weight, 2), 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            self.folded = (state, folded)
        return self.folded[1]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "folded"}


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


def _fold(weight: Tensor, dim: int) -> Tensor:
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)
