"""Many findings, one chance of a false claim: Holm's correction."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Adjusted p values that keep the chance of any false claim at its level (Holm 1979, Scand J Statist 6:65-70).

    Args:
        p_values: Of the family's m tests; NaN = not tested, and not counted.

    Returns:
        `[m]`, at least the given ones, at most 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors)) if len(order) else []
    return adjusted
