"""The three losses of DINOv2 (arXiv 2304.07193) and the two ways to keep its teacher from collapsing.

Every function works over all processes when `torch.distributed` is running, and alone otherwise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _sum_over_ranks(x: Tensor) -> Tensor:
    if _world() > 1:
        dist.all_reduce(x)
    return x


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Teacher probabilities that use every prototype equally, over all ranks (SwAV, arXiv 2006.09882, app. A.1).

    Args:
        logits: `[B, K]` of this rank; other ranks may have another B.
        temperature: Divides the logits.
        iterations: Alternations between prototypes and samples; the last one is over samples.

    Returns:
        `[B, K]`, rows sum to 1.
    """
    logits = logits.float() / temperature
    # a shift common to all entries cancels in the first normalisation, and keeps the exponential finite
    peak = logits.max() if len(logits) else logits.new_tensor(-torch.inf)
    if _world() > 1:
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    q = (logits - peak).exp()
    for _ in range(iterations):
        q = q / _sum_over_ranks(q.sum(0)).clamp_min(1e-30)
        q = q / q.sum(1, keepdim=True).clamp_min(1e-30)
    return q


class Centering(nn.Module):
    """Teacher probabilities by a softmax of logits less their moving average (DINO, arXiv 2104.14294, eq. 4).

    Args:
        prototypes: Number K of prototypes.
        momentum: Share of the old centre that stays at each update.
    """

    def __init__(self, prototypes: int, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.center: Tensor
        self.register_buffer("center", torch.zeros(1, prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Probabilities `[B, K]` with the centre of the steps before; then the centre moves."""
        probabilities = ((logits.float() - self.center) / temperature).softmax(-1)
        count = _sum_over_ranks(logits.new_tensor(float(len(logits)), dtype=torch.float32))
        total = _sum_over_ranks(logits.float().sum(0, keepdim=True))
        if count > 0:
            self.center.lerp_(total / count, 1 - self.momentum)
        return probabilities


def dino_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float = 0.1) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher's and a student's view, a view never with itself (DINO, eq. 3).

    Args:
        student: Logits `[B, K]` of each view, the global ones first in the teacher's order.
        teacher: Probabilities `[B, K]` of each global view.
        temperature: Divides the student's logits.
    """
    logs = [F.log_softmax(logits.float() / temperature, dim=-1) for logits in student]
    pairs = [-(target * log).sum(-1).mean() for i, target in enumerate(teacher) for j, log in enumerate(logs) if i != j]
    return torch.stack(pairs).mean()


def ibot_loss(student: Tensor, teacher: Tensor, masks: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy on masked patches: mean within an image, then over all images (iBOT, arXiv 2111.07832).

    Args:
        student: Logits `[M, K]` of the masked patches, in the order of `masks`.
        teacher: Probabilities `[M, K]` of the same patches.
        masks: Bool `[B, N]`, M in all are True.
        temperature: Divides the student's logits.
    """
    losses = -(teacher * F.log_softmax(student.float() / temperature, dim=-1)).sum(-1)
    weights = (masks / masks.sum(1, keepdim=True).clamp_min(1))[masks]
    return (losses * weights).sum() / len(masks)


def koleo_loss(features: Tensor, eps: float = 1e-8) -> Tensor:
    """Kozachenko-Leonenko regulariser: features keep away from their nearest neighbour (arXiv 1806.03198).

    Args:
        features: `[B, D]` of this rank; the neighbours are looked for over all ranks.
        eps: Keeps the logarithm finite.
    """
    own = F.normalize(features.float(), dim=-1, eps=eps)
    everyone, first = own, 0
    if _world() > 1:
        everyone = torch.cat(all_gather(own))
        first = dist.get_rank() * len(own)
    similarity = own @ everyone.T
    rows = torch.arange(len(own), device=own.device)
    similarity[rows, rows + first] = -torch.inf
    nearest = everyone[similarity.argmax(1)]
    return -(F.pairwise_distance(own, nearest, eps=eps) + eps).log().mean()
