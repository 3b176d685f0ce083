"""Group normalisation and SiLU in one pass over a channels-last image, without gradients."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.errors import UserError
from cxrsynth.ops.extension import called_plainly, has_kernels, kernels, on_device_of, queue

CHANNELS = 16  # must divide their number on a CPU


def norm_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5, shift: Tensor | None = None
) -> Tensor:
    """`silu(group_norm(x + shift))`, computed in float32.

    On one thread torch's own layers take four to seven times as long in bfloat16, twice in float32
    (`benchmarks/results/norm.txt`). Threads share images, and groups where there are fewer images than threads; their
    number changes no bit.

    Args:
        x: `[B, C, H, W]`, floating point.
        groups: Number of groups; divides C.
        weight: `[C]`.
        bias: `[C]`.
        eps: Added to the variance.
        shift: `[B, C]`, added to every pixel first; None = nothing.

    Returns:
        As `x`, in its layout.

    Raises:
        UserError: The shapes do not fit.
    """
    _check(x, weight, bias, shift)
    tensors = (x, weight, bias, shift)
    here = all(t is None or t.device == x.device for t in tensors) and has_kernels(x.device)
    fits = x.dtype in (torch.float32, torch.bfloat16) and x.shape[1] % groups == 0 and x.numel() > 0
    laid = x.is_contiguous(memory_format=torch.channels_last) and (x.is_cuda or x.shape[1] % CHANNELS == 0)
    if not (here and fits and laid and called_plainly(*tensors)):
        return norm_silu_reference(x, groups, weight, bias, eps, shift)
    batch, channels, height, width = x.shape
    out = torch.empty_like(x)
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    shift = None if shift is None else shift.float().contiguous()
    images = kernels().NormBatch(
        x.data_ptr(), weight.data_ptr(), bias.data_ptr(), 0 if shift is None else shift.data_ptr(), out.data_ptr(),
        batch, height * width, channels, groups, eps, x.dtype == torch.bfloat16,
    )  # fmt: skip
    device, where = queue(x)
    needed = kernels().norm_silu_workspace(images) if device else 0
    if needed < 0:
        return norm_silu_reference(x, groups, weight, bias, eps, shift)
    workspace = torch.empty(needed, dtype=torch.uint8, device=x.device) if needed else None
    with on_device_of(x):
        kernels().norm_silu(images, device, 0 if workspace is None else workspace.data_ptr(), where)
    return out


def _check(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None) -> None:
    if x.ndim != 4:
        raise UserError(f"norm_silu: x is {tuple(x.shape)}; it must be [B, C, H, W]")
    batch, channels = x.shape[:2]
    for name, tensor, shape in (
        ("weight", weight, (channels,)),
        ("bias", bias, (channels,)),
        ("shift", shift, (batch, channels)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise UserError(f"norm_silu: {name} is {tuple(tensor.shape)}; x of {tuple(x.shape)} needs {shape}")


def norm_silu_reference(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5, shift: Tensor | None = None
) -> Tensor:
    """The same in PyTorch, wherever tensors are and with gradients; in the precision of x."""
    if shift is not None:
        x = x + shift[:, :, None, None]
    return F.silu(F.group_norm(x, groups, weight, bias, eps))
