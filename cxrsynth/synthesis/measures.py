"""What a painted image is measured by before it is accepted: numbers of one image or of a pair, as squares."""

import torch
from torch import Tensor
from torch.nn import functional as F

SURE = 1e-6  # a probability nearer to 0 or 1 counts as this near
GREY_STEP = 0.5 / 255  # keeps the seam of flat films finite


def asked_gain(before: Tensor, after: Tensor, asked: list[int]) -> float:
    """Smallest rise of an asked finding, in log odds: a scorer that is sure of its source hides a rise of probability.

    Args:
        before: `[C]`, the scorer's probabilities of the source.
        after: `[C]`, of the result.
        asked: Columns of the findings that were painted.
    """
    odds = [torch.logit(probability.double(), SURE) for probability in (before, after)]
    return float((odds[1] - odds[0])[asked].min())


def off_target_drift(before: Tensor, after: Tensor, spared: list[int]) -> float:
    """Largest change of any other finding's probability; 0 where there is none.

    Args:
        before: `[C]`.
        after: `[C]`.
        spared: Columns of findings that may change.
    """
    change = (after - before).abs()
    change[spared] = 0
    return float(change.max())


def seam(image: Tensor, source: Tensor, region: Tensor) -> float:
    """Mean step across the region's edge, as a multiple of the source's own at the same place.

    Args:
        image: `[1, S, S]` in [0, 1].
        source: `[1, S, S]`.
        region: bool `[1, S, S]`. Without an edge the result is 1.
    """
    across = region[..., 1:] != region[..., :-1]
    down = region[..., 1:, :] != region[..., :-1, :]
    if not across.any() and not down.any():
        return 1.0
    steps = [_steps(image, across, down), _steps(source, across, down)]
    return float((steps[0] + GREY_STEP) / (steps[1] + GREY_STEP))


def _steps(image: Tensor, across: Tensor, down: Tensor) -> Tensor:
    horizontal = image.diff(dim=-1).abs()[across]
    vertical = image.diff(dim=-2).abs()[down]
    return torch.cat([horizontal, vertical]).mean()


def out_of_range(image: Tensor, region: Tensor) -> float:
    """Share of the region that is darker or brighter than 99 % of the rest of the film.

    Args:
        image: `[1, S, S]` in [0, 1].
        region: bool `[1, S, S]`; 0 where it is empty or everything.
    """
    inside, outside = image[region], image[~region]
    if not len(inside) or not len(outside):
        return 0.0
    low, high = torch.quantile(outside.double(), torch.tensor([0.005, 0.995], dtype=torch.float64)).float()
    return float(((inside < low) | (inside > high)).float().mean())


def lungs_kept(before: Tensor, after: Tensor, region: Tensor) -> float:
    """Dice of the lungs found before and after, outside the region: what was not painted must not change its outline.

    Args:
        before: bool `[1, S, S]`.
        after: bool `[1, S, S]`.
        region: bool `[1, S, S]`. Where no lungs lie outside it, the result is 1.
    """
    first, second = before & ~region, after & ~region
    total = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def patch_of(image: Tensor, region: Tensor, size: int) -> Tensor:
    """A region's bounding box, resampled to a square and standardised, so that products are correlations.

    The box and no more: what lies around it is the source's, and would make a copied lesion look unlike its original.

    Args:
        image: `[1, S, S]`.
        region: bool `[1, S, S]`; the whole image counts where it is empty.
        size: Side of the patch.

    Returns:
        `[size * size]` of mean 0 and norm 1; 0 where the image is constant.
    """
    region = region if region.any() else torch.ones_like(region)
    rows, columns = region[0].any(1).nonzero().flatten(), region[0].any(0).nonzero().flatten()
    cut = image[None, :, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    patch = F.interpolate(cut, (size, size), mode="bilinear", antialias=True).flatten()
    patch = patch - patch.mean()
    norm = patch.norm()
    return patch / norm if norm > 1e-6 else torch.zeros_like(patch)
