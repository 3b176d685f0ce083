"""Finds the compiled kernels, and says in one sentence what to do when they are missing or stale."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch.autograd import forward_ad

INTERFACE = 6  # must equal the number compiled into csrc/bindings.cpp
REBUILD = "run `pip install .` (or `pip install -e .` for work) in the project's folder again"


@functools.cache
def kernels() -> ModuleType:
    """The compiled module.

    Raises:
        ImportError: It was never built, cannot be loaded, or was built from other sources than this Python code.
    """
    try:
        from cxrsynth.ops import _kernels  # type: ignore[attr-defined]
    except ImportError as error:
        raise ImportError(f"cxrsynth's compiled kernels are missing or cannot be loaded ({error}); {REBUILD}") from None
    if getattr(_kernels, "interface", None) != INTERFACE:
        raise ImportError(f"cxrsynth's compiled kernels are of another version than its Python code; {REBUILD}")
    return _kernels


@functools.cache
def function(name: str, dtype: torch.dtype) -> Callable[..., Any]:
    """The kernel `name` for images of `dtype`."""
    return getattr(kernels(), f"{name}_{str(dtype).removeprefix('torch.')}")


def called_plainly(*tensors: torch.Tensor | None) -> bool:
    """Whether a kernel may be called without its PyTorch operator.

    An operator serves gradients, compilation, transforms and modes. Where none of these is at work it changes nothing,
    but takes longer than the kernel takes for a small image.
    """
    if torch.compiler.is_dynamo_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
        return False
    if forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None:
        return False
    gradients = torch.is_grad_enabled()
    for t in tensors:
        if t is not None and (type(t) is not torch.Tensor or t.is_meta or (gradients and t.requires_grad)):
            return False
    return True


def queue(tensor: torch.Tensor) -> tuple[bool, int]:
    """Where a kernel runs: (True, CUDA stream) or (False, number of threads).

    Raises:
        RuntimeError: The tensor is on a GPU and the kernels were built without CUDA.
    """
    if not tensor.is_cuda:
        return False, torch.get_num_threads()
    if not kernels().cuda_architectures:
        raise RuntimeError(f"cxrsynth's kernels were built without CUDA; install the CUDA toolkit, then {REBUILD}")
    return True, torch.cuda.current_stream(tensor.device).cuda_stream


def has_kernels(device: torch.device) -> bool:
    """Whether kernels for a device were built: always for a CPU, for a GPU where a CUDA compiler was at hand."""
    return device.type == "cpu" or (device.type == "cuda" and bool(kernels().cuda_architectures))


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """For calls of kernels: they are started on the current GPU, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def build_info() -> dict[str, Any]:
    """What was compiled and what runs here.

    Returns:
        `cpu_paths` (compiled instruction sets), `cpu_path` (the one in use), `openmp`, `cuda` (compiled in),
        `cuda_architectures` (CMake's spelling, empty without CUDA), `threads`.
    """
    module = kernels()
    return {
        "cpu_paths": module.compiled_paths(),
        "cpu_path": module.current_path(),
        "openmp": module.openmp,
        "cuda": bool(module.cuda_architectures),
        "cuda_architectures": module.cuda_architectures,
        "threads": torch.get_num_threads(),
    }
