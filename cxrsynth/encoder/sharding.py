"""Weights spread over processes, so that an encoder larger than one device's memory can be trained."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from cxrsynth.encoder.vit import ViT


def shard(network: nn.ModuleDict, mesh: DeviceMesh) -> None:
    """Spread an encoder and its heads over a mesh of processes, in place (FSDP2).

    Each block is gathered when it runs and let go after it; names and shapes of parameters stay as they are.

    Args:
        network: "backbone", a `ViT`, and heads.
        mesh: One-dimensional.
    """
    for part in network.values():
        if isinstance(part, ViT):
            for block in part.blocks:
                fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # also the outermost: the teacher has no backward pass that would let its weights go
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        if isinstance(part, ViT):
            for method in ("tokens", "intermediate"):
                register_fsdp_forward_method(part, method)
