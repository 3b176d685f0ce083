"""warp(image, d)(p) = image(p + d(p)): bilinear or nearest, border clamped, differentiable, on CPU and CUDA."""

from typing import Any

import torch
from torch import Tensor

from cxrsynth.errors import UserError
from cxrsynth.ops.extension import called_plainly, function, on_device_of, queue

MODES = ("bilinear", "nearest")


def warp(image: Tensor, displacement: Tensor, mode: str = "bilinear") -> Tensor:
    """Pull an image back along a displacement.

    Args:
        image: `[B, C, H, W]`, floating point. Half types are computed in float32.
        displacement: `[B, 2, H, W]` in pixels, channel 0 = x (columns), 1 = y (rows); one for all channels.
        mode: "bilinear", or "nearest" for masks (halves round to even; no gradient for the displacement).

    Returns:
        `[B, C, H, W]` of the image's dtype. Positions beyond the border take the border's value.

    Raises:
        UserError: Shapes, dtypes or devices do not fit.
    """
    shape = image.shape
    if len(shape) != 4 or displacement.shape != (shape[0], 2, shape[2], shape[3]):
        raise UserError(
            f"warp: image is {tuple(shape)} and displacement {tuple(displacement.shape)}; they must be "
            "[B, C, H, W] and [B, 2, H, W] of the same B, H and W"
        )
    if mode not in MODES:
        raise UserError(f"warp: mode is {mode!r}; use one of {', '.join(MODES)}")
    if image.device != displacement.device:
        raise UserError(f"warp: image is on {image.device} and displacement on {displacement.device}; move one of them")
    run = _run if called_plainly(image, displacement) else _warp
    if image.dtype == displacement.dtype == torch.float32:  # the usual case, without conversions
        return run(image, displacement, mode)
    if not (image.is_floating_point() and displacement.is_floating_point()):
        raise UserError(f"warp: dtypes are {image.dtype} and {displacement.dtype}; give floating point images")
    working = torch.float64 if torch.float64 in (image.dtype, displacement.dtype) else torch.float32
    return run(image.to(working), displacement.to(working), mode).to(image.dtype)


def warp_reference(image: Tensor, displacement: Tensor, mode: str = "bilinear") -> Tensor:
    """The same as `warp`, in PyTorch. Arguments and result as there, float32 and float64."""
    height, width = image.shape[-2:]
    x = torch.arange(width, device=image.device, dtype=image.dtype) + displacement[:, 0]
    y = torch.arange(height, device=image.device, dtype=image.dtype)[:, None] + displacement[:, 1]
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    plane = image.flatten(2)

    def pixel(column: Tensor, row: Tensor) -> Tensor:
        index = (row * width + column).long().flatten(1)[:, None]
        return plane.gather(2, index.expand(-1, plane.shape[1], -1)).view_as(image)

    if mode == "nearest":
        return pixel(x.round(), y.round())
    left, top = x.detach().floor().clamp(max=max(width - 2, 0)), y.detach().floor().clamp(max=max(height - 2, 0))
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    upper = (1 - fx) * pixel(left, top) + fx * pixel(right, top)
    lower = (1 - fx) * pixel(left, bottom) + fx * pixel(right, bottom)
    return (1 - fy) * upper + fy * lower


def _run(image: Tensor, displacement: Tensor, mode: str) -> Tensor:
    image, displacement = image.contiguous(), displacement.contiguous()
    out, shape = torch.empty_like(image), image.shape
    if 0 not in shape:
        pointers = image.data_ptr(), displacement.data_ptr(), out.data_ptr()
        with on_device_of(image):
            function("warp", image.dtype)(*pointers, *shape, MODES.index(mode), *queue(image))
    return out


_warp = torch.library.custom_op("cxrsynth::warp", _run, mutates_args=())


@_warp.register_fake
def _(image: Tensor, displacement: Tensor, mode: str) -> Tensor:
    return torch.empty_like(image, memory_format=torch.contiguous_format)


@torch.library.custom_op("cxrsynth::warp_backward", mutates_args=())
def _warp_backward(
    image: Tensor, displacement: Tensor, grad: Tensor, mode: str, for_image: bool, for_displacement: bool
) -> tuple[Tensor, Tensor]:
    image, displacement, grad = image.contiguous(), displacement.contiguous(), grad.contiguous()
    new = torch.empty_like if image.device.type == "cpu" else torch.zeros_like  # CUDA's threads add to it at once
    grad_image = new(image) if for_image else image.new_empty(0)
    grad_displacement = torch.empty_like(displacement) if for_displacement else image.new_empty(0)
    if grad.numel():
        tensors = image, displacement, grad, grad_image, grad_displacement
        pointers = (t.data_ptr() if t.numel() else 0 for t in tensors)
        with on_device_of(image):
            function("warp_backward", image.dtype)(*pointers, *image.shape, MODES.index(mode), *queue(image))
    return grad_image, grad_displacement


@_warp_backward.register_fake
def _(
    image: Tensor, displacement: Tensor, grad: Tensor, mode: str, for_image: bool, for_displacement: bool
) -> tuple[Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(image, memory_format=contiguous) if for_image else image.new_empty(0),
        torch.empty_like(displacement, memory_format=contiguous) if for_displacement else image.new_empty(0),
    )


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    image, displacement, ctx.mode = inputs
    ctx.save_for_backward(image, displacement)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    for_image, for_displacement = ctx.needs_input_grad[:2]
    grads = _warp_backward(*ctx.saved_tensors, grad, ctx.mode, for_image, for_displacement)
    return grads[0] if for_image else None, grads[1] if for_displacement else None, None


_warp.register_autograd(_backward, setup_context=_setup)
