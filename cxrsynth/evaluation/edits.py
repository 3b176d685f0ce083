"""Traces of painting: seams, tone, anatomy, and whether a detector can tell edited films from real ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cxrsynth.anatomy import segment
from cxrsynth.evaluation.bootstrap import bootstrap
from cxrsynth.evaluation.metrics import auroc

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


def seam(source: Array, made: Array, region: Bools) -> float:
    """Mean gradient across the region's border in the result, over that in the source: 1 = no seam.

    Args:
        source: `[H, W]` in [0, 1].
        made: `[H, W]`.
        region: Bool `[H, W]`.
    """
    border = binary_dilation(region) & ~binary_erosion(region, border_value=1)
    before, after = (np.hypot(*np.gradient(image))[border].mean() if border.any() else np.nan for image in
                     (source, made))  # fmt: skip
    return float(after / max(before, 1e-6))


def tone(source: Array, made: Array, region: Bools) -> float:
    """Mean change of grey inside the region."""
    return float((made - source)[region].mean()) if region.any() else float("nan")


def anatomy_dice(sources: Tensor, made: Tensor) -> Array:
    """Dice of the lungs found in source and result, `[n]`, of images `[n, 1, S, S]`; NaN where none are found."""
    a, b = (segment(images).flatten(1).double() for images in (sources, made))
    total = (a.sum(1) + b.sum(1)).numpy()
    both = 2 * (a * b).sum(1).numpy()
    return np.divide(both, total, out=np.full(len(total), np.nan), where=total > 0)


def detector(real: Array, made: Array, real_patients: Sequence[str], made_patients: Sequence[str]) -> dict[str, Any]:
    """AUROC of a linear detector of edited images, cross-validated by patient: 0.5 = nobody can tell.

    Args:
        real: `[n, d]`, features of real images.
        made: `[m, d]`, of edited ones.
        real_patients: Patient of each.
        made_patients: Source patient of each.
    """
    features = np.concatenate([real, made])
    truth = np.repeat([0.0, 1.0], [len(real), len(made)])
    patients = [*real_patients, *(name or f"made {n}" for n, name in enumerate(made_patients))]
    folds = min(5, len(set(real_patients)), len(set(patients[len(real) :])))
    if folds < 2:
        return {}
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"))
    score = cross_val_predict(model, features, truth, groups=patients, cv=GroupKFold(folds), method="predict_proba")[
        :, 1
    ]
    (found,) = bootstrap(lambda weights: auroc(score, truth, weights)[:, None], patients, draws=500)
    return {"real": len(real), "made": len(made), **vars(found)}


def unchanged(sources: Tensor, made: Tensor) -> int:
    """Number of results that equal their sources to a thousandth of the grey scale everywhere."""
    return int(((sources - made).abs().flatten(1).amax(1) < 1e-3).sum()) if len(made) else 0


def squares_of(regions: Sequence[Bools]) -> Tensor:
    """Regions `[S, S]` as one bool tensor `[n, S, S]`."""
    return torch.from_numpy(np.stack(regions)) if regions else torch.zeros(0, 1, 1, dtype=torch.bool)
