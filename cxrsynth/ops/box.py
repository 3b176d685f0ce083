"""Repeated box filter of one image on a CPU, in a time that does not depend on the size of the box."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.errors import UserError
from cxrsynth.ops.extension import kernels


def box_mean(x: Tensor, radius: int, times: int = 1) -> Tensor:
    """Means over squares of 2 radius + 1 pixels a side, `times` times: three make all but a Gaussian.

    One such filter has the variance radius (radius + 1) / 3. Runs on one thread.

    Args:
        x: `[H, W]`, float64 on the CPU; a NaN spreads over its row and column.
        radius: In pixels, from 0.
        times: How often, from 0.

    Returns:
        `[H, W]`; beyond the border the image is taken to go on with the border's value.

    Raises:
        UserError: x or a number does not fit.
    """
    if x.ndim != 2 or x.dtype != torch.float64 or x.is_cuda or radius < 0 or times < 0:
        raise UserError(
            f"box_mean: x is {tuple(x.shape)}, {x.dtype} on {x.device}, radius {radius}, times {times}; x must be "
            "[H, W], float64 on the CPU, and the numbers from 0"
        )
    x = x.detach().contiguous()
    out = torch.empty_like(x)
    if x.numel():
        kernels().box_mean(x.data_ptr(), *x.shape, radius, times, out.data_ptr())
    return out


def box_mean_reference(x: Tensor, radius: int, times: int = 1) -> Tensor:
    """The same in PyTorch, up to rounding."""
    for _ in range(times):
        padded = F.pad(x[None, None], [radius] * 4, mode="replicate")
        x = F.avg_pool2d(padded, 2 * radius + 1, stride=1)[0, 0]
    return x
