"""How like real images are they, and how different from each other? Distances between sets of features.

Every figure depends on how many images it is computed from, so each stands beside what two sets of real images of the
same size give: the floor.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure
from torchmetrics.image.kid import poly_mmd

Array = NDArray[np.float64]

NEIGHBOURS = 5
COMPONENTS = 32  # features are projected on so many principal components of the real training images'


def frechet(a: Array, b: Array) -> float:
    """Frechet distance of two sets of features `[n, d]` (Heusel et al. 2017, arXiv 1706.08500, eq. 6)."""
    apart = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(first @ second))
    return float(max(0.0, apart @ apart + np.trace(first + second - 2 * root)))


def kernel(a: Array, b: Array) -> float:
    """Kernel distance, unbiased, with the cubic kernel (Binkowski et al. 2018, arXiv 1801.01401, section 4)."""
    n = min(len(a), len(b))
    return float(poly_mmd(torch.as_tensor(a[:n]), torch.as_tensor(b[:n])))


def precision_recall_density_coverage(real: Array, made: Array) -> dict[str, float]:
    """Shares of each set that lie in the other's neighbourhoods.

    Precision and recall: Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 2; density and coverage: Naeem et al. 2020,
    arXiv 2002.09797, eq. 3 and 4.
    """
    k = min(NEIGHBOURS, len(real) - 1, len(made) - 1)
    radius_real, radius_made = (
        NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, -1] for x in (real, made)
    )
    distance = np.linalg.norm(real[:, None] - made[None], axis=2)
    inside_real, inside_made = distance <= radius_real[:, None], distance <= radius_made[None]
    return {
        "precision": float(inside_real.any(axis=0).mean()),
        "recall": float(inside_made.any(axis=1).mean()),
        "density": float(inside_real.sum(axis=0).mean() / k),
        "coverage": float(inside_real.any(axis=1).mean()),
    }


def set_distances(real: Array, made: Array) -> dict[str, float]:
    """All of the above for two sets of features `[n, d]`."""
    return {
        "frechet": frechet(real, made),
        "kernel": kernel(real, made),
        **precision_recall_density_coverage(real, made),
    }


def with_floor(real: Array, other_real: Array, made: Array, draws: int = 10, seed: int = 0) -> dict[str, object]:
    """Distances of the images made from real ones, and of real ones from other real ones, at the same number.

    Args:
        real: `[n, d]`, features of real training images of the findings asked for.
        other_real: `[m, d]`, of held-out patients' images of the same findings.
        made: `[k, d]`.
        draws: Draws of subsets; the figures are their means.
        seed: Seed of the draws.

    Returns:
        `images` (the size of each set), `made` and `floor`; empty when a set has fewer than ten images.
    """
    size = min(len(real), len(other_real), len(made))
    if size < 10:
        return {}
    generator = np.random.default_rng(seed)
    projection = PCA(min(COMPONENTS, size - 1, real.shape[1]), random_state=0).fit(real)
    real, other_real, made = (projection.transform(x) for x in (real, other_real, made))

    def draw(x: Array) -> Array:
        return x[generator.permutation(len(x))[:size]]

    rows = [(set_distances(draw(real), draw(made)), set_distances(draw(real), draw(other_real))) for _ in range(draws)]
    means = [{key: float(np.mean([row[i][key] for row in rows])) for key in rows[0][0]} for i in (0, 1)]
    return {"images": size, "made": means[0], "floor": means[1]}


class RandomConvolutions(nn.Module):
    """An embedding that nobody trained: three layers of random 5 x 5 convolutions with ReLU, mean and spread of each.

    Untrained features see texture and layout without favouring any network here.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kernels = [
            torch.randn(out, into, 5, 5, generator=generator) / (25 * into) ** 0.5
            for into, out in ((1, 32), (32, 64), (64, 64))
        ]

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """`[B, 320]` of images `[B, 1, S, S]` in [0, 1], standardised one by one."""
        x = (image - image.mean((1, 2, 3), keepdim=True)) / image.std((1, 2, 3), keepdim=True).clamp_min(1e-6)
        features = []
        for weights in self.kernels:
            x = nn.functional.conv2d(x, weights, stride=2, padding=2).relu()
            features += [x.mean((2, 3)), x.std((2, 3))]
        return torch.cat(features, 1)


def embed(images: Tensor, network: Callable[[Tensor], Tensor], batch: int = 64) -> Array:
    """Features `[n, d]` of images `[n, 1, S, S]`."""
    with torch.inference_mode():
        return torch.cat([network(part) for part in images.split(batch)]).double().numpy()


def similarity_within(images: Tensor, pairs: int = 40, seed: int = 0) -> float:
    """Mean MS-SSIM of random pairs of `[n, 1, S, S]` (three scales): the nearer to 1, the less they differ.

    NaN for fewer than two images, or images of fewer than 32 pixels a side, which have no three scales.
    """
    if len(images) < 2 or images.shape[-1] < 32:
        return float("nan")
    generator = np.random.default_rng(seed)
    chosen = [generator.choice(len(images), 2, replace=False) for _ in range(pairs)]
    first, second = (images[[pair[i] for pair in chosen]] for i in (0, 1))
    value = multiscale_structural_similarity_index_measure(
        first, second, kernel_size=7, betas=(0.25, 0.35, 0.4), data_range=1.0
    )
    return float(value)
