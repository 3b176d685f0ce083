"""How large a difference a test set can show at all."""

import numpy as np
from scipy.stats import norm


def detectable_difference(error: float, power: float = 0.8, level: float = 0.05) -> float:
    """Smallest true difference that a two-sided test finds with the given power.

    Args:
        error: Standard error of the difference, for example a quarter of the width of its 95 % interval.
        power: Chance to find it.
        level: Level of the test.
    """
    return float((norm.ppf(1 - level / 2) + norm.ppf(power)) * error)


def auroc_error(area: float, present: int, absent: int) -> float:
    """Standard error of an AUROC (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747, eq. 2).

    Args:
        area: The AUROC.
        present: Images with the finding.
        absent: Images without it.
    """
    if min(present, absent) < 1 or not 0 <= area <= 1:
        return float("nan")
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (present - 1) * (q1 - area**2) + (absent - 1) * (q2 - area**2)
    return float(np.sqrt(variance / (present * absent)))
