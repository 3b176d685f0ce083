"""What an autoencoder is trained with, and how far it may stray."""

from torch import Tensor


def kl_divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Divergence of `N(mean, deviation^2)` from the standard normal: sum over an image's latents, mean of the batch.

    Kingma & Welling 2013 (arXiv 1312.6114), appendix B.

    Args:
        mean: `[B, Z, h, w]`.
        deviation: `[B, Z, h, w]`, positive.
    """
    each = mean.square() + deviation.square() - 2 * deviation.log() - 1
    return each.sum((1, 2, 3)).mean() / 2
