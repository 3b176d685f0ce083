"""An exponential moving average of a module's weights."""

import copy

import torch
from torch import Tensor, nn


class ExponentialMovingAverage(nn.Module):
    """Averages a module's parameters; the average is a module of its own and lives in the state dict.

    After `n` updates the decay is `min(decay, (1 + n) / (10 + n))`, so that a short training is not ruled by the
    weights it started from (the warm-up of TensorFlow's `ExponentialMovingAverage(num_updates=...)`).

    Args:
        module: The module to average. It is copied, never changed.
        decay: Largest decay, in [0, 1).
    """

    updates: Tensor

    def __init__(self, module: nn.Module, decay: float = 0.999):
        super().__init__()
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present weights; buffers are copied."""
        count = int(self.updates)
        decay = min(self.decay, (1 + count) / (10 + count))
        self.updates += 1
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
        for average, present in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(present)
