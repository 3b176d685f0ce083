"""The compiled kernels, each beside its reference in pure PyTorch."""

from cxrsynth.ops.demons import demons, demons_reference
from cxrsynth.ops.extension import build_info
from cxrsynth.ops.warp import warp, warp_reference

__all__ = ["build_info", "demons", "demons_reference", "warp", "warp_reference"]
