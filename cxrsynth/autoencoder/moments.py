"""Mean and spread of the latents, measured while the autoencoder learns."""

import torch
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """First and second moment over all numbers of the batches it is shown, the last hundred above all.

    A plain mean of the first `memory` batches, an exponential one after them, because the encoder moves. It lives in
    the state dict, so that every checkpoint knows the scale of its latents and a resumed training goes on exactly.

    Args:
        memory: Batches.
    """

    count: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, memory: int = 100):
        super().__init__()
        self.memory = memory
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("first", torch.zeros(()))
        self.register_buffer("second", torch.zeros(()))

    def update(self, values: Tensor) -> None:
        """Add a batch."""
        self.count += 1
        share = 1 / self.count.clamp_max(self.memory)
        self.first.lerp_(values.mean(), share)
        self.second.lerp_(values.square().mean(), share)

    @property
    def deviation(self) -> Tensor:
        """The standard deviation, a scalar."""
        return (self.second - self.first.square()).clamp_min(1e-12).sqrt()
