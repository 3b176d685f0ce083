"""Does an encoder that has never seen a label tell findings apart?"""

from torch import Tensor
from torch.nn import functional as F


def neighbour_scores(features: Tensor, target: Tensor, neighbours: int = 10) -> Tensor:
    """How many of an image's nearest others have each finding, weighed by likeness: a k-nearest-neighbour probe.

    Args:
        features: One vector an image, `[M, D]`.
        target: `[M, C]`, 1 present, 0 absent, NaN unknown (left out among the neighbours).
        neighbours: How many others are asked (Wu et al. 2018, arXiv 1805.01978, weigh them by `exp(cosine / 0.07)`).

    Returns:
        `[M, C]` in [0, 1]; an image is never its own neighbour.
    """
    unit = F.normalize(features.float(), dim=-1)
    likeness = unit @ unit.T
    likeness.fill_diagonal_(-2)
    weights, nearest = likeness.topk(min(neighbours, len(features) - 1))
    weights = (weights / 0.07).softmax(-1).unsqueeze(-1)
    seen = target[nearest]
    known = (~seen.isnan()) * weights
    return (seen.nan_to_num() * weights).sum(1) / known.sum(1).clamp_min(1e-12)
