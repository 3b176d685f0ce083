"""Weights of a velocity field spread over processes, so that one larger than a device's memory can be trained."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

WHOLE = ("embed", "unet.middle_block")
LISTS = ("blocks", "unet.down_blocks", "unet.up_blocks")


def shard(fields: Iterable[nn.Module], mesh: DeviceMesh | None) -> None:
    """Spread velocity fields over a mesh of processes, in place (FSDP2).

    Their blocks, and what embeds the condition (a sampler calls it alone), are gathered when they run and let go after;
    names and shapes of parameters stay as they are.

    Args:
        fields: UNets, transformers, or `FlowMap`s over them.
        mesh: Of the strategy, with a dimension `data_parallel`; None = nothing is sharded.
    """
    if mesh is None:
        return
    for field in fields:
        field.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # FSDP2 takes no other
        for name, part in list(field.named_modules()):
            local = name.removeprefix("field.")
            if local in WHOLE or local.rpartition(".")[0] in LISTS:
                fully_shard(part, mesh=mesh["data_parallel"], reshard_after_forward=True)
        fully_shard(field, mesh=mesh["data_parallel"], reshard_after_forward=True)
