"""Half kernels that Demons smooths with."""

import math

import numpy as np
from scipy.special import ive

MAX_SIGMA = 10
MAX_RADIUS = 32


def smoothing_taps(sigma: float, kernel: str) -> list[float]:
    """Weights of a smoothing kernel from its centre outwards, summing to 1 over both sides.

    Args:
        sigma: Standard deviation in pixels, at most MAX_SIGMA; 0 = no smoothing.
        kernel: "gaussian": exp(-x^2 / 2 sigma^2) up to 2.5 sigma. "itk": exp(-sigma^2) I_n(sigma^2), cut where less
            than 0.1 of the mass is left (ITK's GaussianOperator with the default maximum error of displacement fields).
            "box": equal weights, as many as come nearest to sigma; at one reach it needs the fewest.

    Returns:
        At most 33 weights, empty for sigma 0.
    """
    if sigma == 0:
        return []
    if kernel == "gaussian":
        x = np.arange(max(round(2.5 * sigma), 1) + 1)
        weights = np.exp(-0.5 * (x / sigma) ** 2)
    elif kernel == "box":  # radius r has variance r (r + 1) / 3
        weights = np.ones(max(round(math.sqrt(3 * sigma**2 + 0.25) - 0.5), 1) + 1)
    else:
        weights = ive(np.arange(MAX_RADIUS + 1), sigma**2)
        mass = 2 * np.cumsum(weights) - weights[0]
        weights = weights[: max(int(np.argmax(mass >= 0.9)), 1) + 1]
    total = math.fsum(weights) * 2 - weights[0]
    return [float(w / total) for w in weights]
