"""Convolutions of 3 x 3 in a quarter of the multiplications, on a CPU, in float32, without gradients.

Winograd's way (Lavin & Gray 2015, arXiv 1509.09308, section 4.1): `out = A^T [(G g G^T) * (B^T d B)] A` for each tile d
of 6 x 6 pixels, which gives 4 x 4. The transforms of the pixels are ours (`csrc/cpu/winograd_tiles.h`); the sums over
channels, at each of the 36 points of a tile, are 36 matrix products.
"""

import itertools
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrsynth.ops.extension import called_plainly, kernels

CHANNELS = 16  # must divide their number
POINTS = 36
LEAST_CHANNELS = 32  # below, the transforms take more than they save
LEAST = 8  # pixels of a side: below, too much of the tiles lies outside
GAP = 16  # numbers between points: powers of two would share places in the cache
LEAST_TILES = 4  # of a product: libraries add up shorter ones in another order on some processors
WORKSPACE = 1 << 19  # numbers of points a thread, so that they stay in its cache
G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]


def filter_points(weight: Tensor) -> Tensor:
    """`G g G^T` of a convolution's weight `[O, C, 3, 3]`, as matrices: float32 `[36, C, O]`."""
    g = torch.tensor(G, dtype=torch.float64)
    points = torch.einsum("ia,ocab,jb->ijco", g, weight.double(), g)
    return points.flatten(0, 1).float().contiguous()


def fits(convolution: nn.Conv2d) -> bool:
    """Whether a layer is what `conv3x3` computes faster: 3 x 3 with one pixel of zeros around, of enough channels."""
    plain = convolution.kernel_size == (3, 3) and convolution.padding == (1, 1) and convolution.padding_mode == "zeros"
    single = convolution.stride == convolution.dilation == (1, 1) and convolution.groups == 1
    channels = (convolution.in_channels, convolution.out_channels)
    return plain and single and min(channels) >= LEAST_CHANNELS and not any(c % CHANNELS for c in channels)


def conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, points: Callable[[], Tensor] | None = None
) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=1)`, 1.3 to 2 times as fast (`benchmarks/results/convolution.txt`).

    The result differs from the plain one by rounding, about 2e-6 of its size; an infinite or missing number spreads
    over its tile. It is the same for one image as for a batch, whatever the number of threads.

    Args:
        x: `[B, C, H, W]`, float32, channels last, of at least `LEAST` pixels a side; others take the plain way.
        weight: `[O, C, 3, 3]`.
        bias: `[O]`.
        points: Gives `filter_points(weight)`, where it is at hand.

    Returns:
        `[B, O, H, W]`.
    """
    outside, inside, *kernel = weight.shape
    aligned = not (inside % CHANNELS or outside % CHANNELS) and kernel == [3, 3]
    here = all(t is None or (t.device.type == "cpu" and t.dtype == torch.float32) for t in (x, weight, bias))
    large = x.ndim == 4 and x.shape[1] == inside and min(x.shape[2:]) >= LEAST and len(x) > 0
    laid_out = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if not (aligned and here and large and laid_out and called_plainly(x, weight, bias)):
        return F.conv2d(x, weight, bias, padding=1)
    u = filter_points(weight) if points is None else points()
    b = x.new_zeros(outside) if bias is None else bias.contiguous()
    batch, _, height, width = x.shape
    out = torch.empty(batch, outside, height, width, memory_format=torch.channels_last)
    threads, rows, across = torch.get_num_threads(), batch * -(-height // 4), -(-width // 4)  # rows of tiles
    wanted = threads * WORKSPACE // (POINTS * across * (inside + outside))
    parts = -(-rows // max(wanted, 2 * -(-LEAST_TILES // across)))
    starts = [rows * part // parts for part in range(parts + 1)]  # parts of nearly the same size: none is too short
    at_once = -(-rows // parts)
    v_size, m_size = POINTS * (at_once * across * inside + GAP), POINTS * at_once * across * outside
    memory_v, memory_m = workspace(v_size + m_size).split([v_size, m_size])
    winograd = kernels().winograd
    for first, end in itertools.pairwise(starts):
        some = end - first
        tiles = some * across
        stride = tiles * inside + GAP
        v = memory_v.as_strided((POINTS, tiles, inside), (stride, inside, 1))
        m = memory_m[: POINTS * tiles * outside].view(POINTS, tiles, outside)  # a gap here would cost torch a copy
        place = first, some, height, width
        winograd(x.data_ptr(), 0, v.data_ptr(), *place, inside, stride, True, threads)
        torch.bmm(v, u, out=m)
        winograd(out.data_ptr(), b.data_ptr(), m.data_ptr(), *place, outside, tiles * outside, False, threads)
    return out


_kept = threading.local()


def workspace(numbers: int) -> Tensor:
    """Memory for float32 numbers that the next call gets again: fresh pages took a third of the time."""
    if getattr(_kept, "memory", None) is None or len(_kept.memory) < numbers:
        with torch.inference_mode(False):  # a tensor made inside could not be written outside
            _kept.memory = torch.empty(numbers)
    return _kept.memory[:numbers]
