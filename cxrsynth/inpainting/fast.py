"""Faster forwards of MONAI's diffusion UNet on a CPU, over the same weights, where no gradient is asked for."""

import torch
from monai.networks.nets.diffusion_model_unet import WrappedUpsample
from torch import Tensor, nn
from torch.nn import functional as F

# Winograd's F(4 x 4, 3 x 3): four outputs of a filter of three taps from six inputs (Lavin & Gray 2016,
# arXiv 1509.09308, section 4.3). `_D` transforms the inputs, `_G` the filter, `_Y` back to outputs.
_D = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0]]
_D += [[0, 4, 0, -5, 0, 1]]
_G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6]]
_G += [[1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
_Y = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
_INPUT, _OUTPUT = (torch.kron(m, m) for m in (torch.tensor(_D).float(), torch.tensor(_Y).float()))
TILE = 4
SMALLEST = 12  # pixels of a side; below it oneDNN's own convolution is as fast
WORKSPACE = 5000  # tiles times channels of one part of the batch: what fits a core's cache


def speed_up(unet: nn.Module) -> None:
    """Give the layers of a UNet their faster forwards, in place. Names and values of weights stay."""
    for module in unet.modules():
        if type(module) is nn.Conv2d and (module.kernel_size, module.stride) == ((3, 3), (1, 1)):
            module.__class__ = WinogradConv2d
        elif type(module) is WrappedUpsample and hasattr(module, "postconv"):
            module.__class__ = FoldedUpsample


def plain(x: Tensor, *weights: Tensor) -> bool:
    """Whether the fast paths apply: on a CPU, in float32, without gradient, compiler and other processes.

    Sharded weights are gathered into the same memory again and again, so a change of theirs would not be noticed.
    """
    learns = torch.is_grad_enabled() and (x.requires_grad or any(weight.requires_grad for weight in weights))
    here = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    return here and alone and not learns and not torch.compiler.is_compiling()


class WinogradConv2d(nn.Conv2d):
    """A 3 x 3 convolution with a quarter of the multiplications; differs from the plain one by rounding (1e-5)."""

    transformed: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, O, H, W]`, channels last."""
        fits = input.shape[2] % TILE == input.shape[3] % TILE == 0 and min(input.shape[2:]) >= SMALLEST
        if not fits or self.padding != (1, 1) or min(self.weight.shape[:2]) < 32 or not plain(input, self.weight):
            return super().forward(input)
        count, channels, height, width = input.shape
        out = input.new_empty(count, height, width, self.out_channels)
        at_once = max(1, WORKSPACE * TILE**2 // (channels * height * width))
        for part, target in zip(input.split(at_once), out.split(at_once), strict=True):
            self._convolve(part, target)
        return out.permute(0, 3, 1, 2)

    def _convolve(self, x: Tensor, out: Tensor) -> None:
        count, channels, height, width = x.shape
        down, across = height // TILE, width // TILE
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        image, row, column, channel = padded.stride()
        views = (6, 6, count, down, across, channels), (row, column, image, TILE * row, TILE * column, channel)
        tiles = padded.as_strided(*views).reshape(36, -1)
        inputs = (_INPUT @ tiles).view(36, -1, channels)
        products = torch.bmm(inputs, self._filter()).view(36, -1)
        results = (_OUTPUT @ products).view(TILE, TILE, count, down, across, -1).permute(2, 3, 0, 4, 1, 5)
        out = out.view(count, down, TILE, across, TILE, -1)
        if self.bias is None:
            out.copy_(results)
        else:
            torch.add(results, self.bias, out=out)

    def _filter(self) -> Tensor:
        """The filter as 36 matrices `[C, O]`, kept until the weights change."""
        weight = self.weight.detach()
        state = (weight.data_ptr(), self.weight._version)
        if self.transformed is None or self.transformed[0] != state:
            g = weight.new_tensor(_G)
            filters = torch.einsum("ai,bj,ocij->abco", g, g, weight).flatten(0, 1).contiguous()
            self.transformed = (state, filters)
        return self.transformed[1]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "transformed"}


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
        weight = convolution.weight.detach()
        state = (weight.data_ptr(), convolution.weight._version)
        if self.folded is None or self.folded[0] != state:
            folded = _fold(_fold(weight, 2), 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
            self.folded = (state, folded)
        return self.folded[1]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "folded"}


def _fold(weight: Tensor, dim: int) -> Tensor:
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)
