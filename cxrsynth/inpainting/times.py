"""The times at which training looks at the path."""

from typing import Literal, get_args

import torch
from torch import Tensor

from cxrsynth.errors import UserError

Times = Literal["uniform", "logit_normal"]


def draw_times(
    batch: int,
    times: Times = "uniform",
    mean: float = 0.0,
    spread: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One time in each of B equally likely parts of the distribution, in random order.

    The same distribution as B free draws, with a steadier loss.

    Args:
        batch: B.
        times: `uniform` in [0, 1], or `logit_normal`: the logit of t is normal (Esser et al. 2024, arXiv 2403.03206,
            section 3.1), which looks more often at the middle of the path.
        mean: Of the logit; above 0 looks more often near the image (t = 1).
        spread: Standard deviation of the logit.
        generator: Source of the draws, on the CPU.

    Returns:
        float32 `[B]` in [0, 1].

    Raises:
        UserError: Unknown distribution, or a spread of 0 or less.
    """
    if times not in get_args(Times):
        raise UserError(f"times is {times!r}; choose one of {', '.join(get_args(Times))}")
    if spread <= 0:
        raise UserError(f"time_spread is {spread}; give a standard deviation above 0")
    share = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    if times == "logit_normal":
        share = torch.sigmoid(mean + spread * torch.special.ndtri(share.double().clamp(1e-6, 1 - 1e-6))).float()
    return share[torch.randperm(batch, generator=generator)]
