"""Does an encoder that has never seen a label tell findings apart?"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.encoder.vit import Features


def summary_vector(features: Features) -> Tensor:
    """One vector an image, `[B, 2 D]`: the last block's cls token and the spread of its patch tokens.

    DINOv2's own linear evaluation (arXiv 2304.07193, app. B.3) takes the patch tokens' mean, which a lesion of a few
    patches hardly moves; their standard deviation it does.
    """
    patches, cls = features[-1]
    return torch.cat([cls, patches.std(1, unbiased=False)], dim=-1).float()


def neighbour_scores(bank: Tensor, target: Tensor, features: Tensor, neighbours: int = 20) -> Tensor:
    """How many of an image's nearest in a bank have each finding, weighed by likeness: a k-nearest-neighbour probe.

    Args:
        bank: One vector an image with known findings, `[N, D]`; of other patients than `features`.
        target: The bank's findings, `[N, C]`, 1 present, 0 absent, NaN unknown (left out among the neighbours).
        features: The images asked about, `[M, D]`.
        neighbours: How many are asked (Wu et al. 2018, arXiv 1805.01978, weigh them by `exp(cosine / 0.07)`).

    Returns:
        `[M, C]` in [0, 1].
    """
    # each number is centred and scaled over the bank, or the cosine would see little but the mean image
    mean, scale = bank.mean(0), bank.std(0).clamp_min(1e-6)
    bank, features = (F.normalize((x - mean) / scale, dim=-1) for x in (bank, features))
    weights, nearest = (features @ bank.T).topk(min(neighbours, len(bank)))
    weights = (weights / 0.07).softmax(-1).unsqueeze(-1)
    seen = target[nearest]
    known = (~seen.isnan()) * weights
    return (seen.nan_to_num() * weights).sum(1) / known.sum(1).clamp_min(1e-12)


def linear_scores(bank: Tensor, target: Tensor, features: Tensor, regularisation: float = 20.0) -> Tensor:
    """Probabilities of a logistic regression for each finding, fitted on a bank: a linear probe.

    Args:
        bank: See `neighbour_scores`.
        target: See `neighbour_scores`.
        features: See `neighbour_scores`.
        regularisation: Weight of the squared coefficients (of standardised numbers).

    Returns:
        `[M, C]` in [0, 1]; NaN for a finding that no image of the bank has or all have.
    """
    scores = np.full((len(features), target.shape[1]), np.nan)
    for column, truth in enumerate(target.T.cpu().numpy()):
        known = ~np.isnan(truth)
        if len(np.unique(truth[known])) < 2:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / regularisation, max_iter=1000))
        model.fit(bank.cpu().numpy()[known], truth[known])
        scores[:, column] = model.predict_proba(features.cpu().numpy())[:, 1]
    return torch.from_numpy(scores).to(features)


PROBES = {"knn": neighbour_scores, "linear": linear_scores}
