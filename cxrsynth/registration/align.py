"""What makes two patients' images comparable before Demons: grey levels, local contrast and framing.

Everything is computed image by image in float64 on the CPU with one thread: neither batch nor threads change a bit.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from cxrsynth.ops import warp

COARSE, FINE = 32, 64  # pixels a side of the images that the affine map is found on
STARTS = tuple(
    (zoom, shift) for zoom in (0.0, -0.2, 0.2) for shift in (0.0, -0.2, 0.2)
)  # log scale, shift down / half image
KEPT = 3  # starts that are followed after the first steps
SETTLED = 0.01  # largest change of the map, in half images, at which it is found: Demons does the rest
MIN_OVERLAP = 0.6  # share of the image below which an affine start is marked down


def match_histogram(moving: Tensor, fixed: Tensor, levels: int = 64) -> Tensor:
    """Map the grey values of `moving` so that their quantiles become those of `fixed`, linear in between.

    Args:
        moving: `[B, 1, H, W]`.
        fixed: `[B, 1, H, W]`.
        levels: Number of quantiles.

    Returns:
        `[B, 1, H, W]`; NaN stays NaN and counts in no quantile.
    """
    matched = torch.empty_like(moving)
    at = np.linspace(0, 1, levels)
    for i in range(len(moving)):
        values, target = (image[i].detach().cpu().double().numpy() for image in (moving, fixed))
        known, wanted = values[np.isfinite(values)], target[np.isfinite(target)]
        if known.size == 0 or wanted.size == 0:
            matched[i] = moving[i]
            continue
        source, goal = np.quantile(known, at), np.quantile(wanted, at)
        source, first = np.unique(source, return_index=True)  # constant stretches have one quantile value
        matched[i] = torch.from_numpy(np.interp(values, source, goal[first])).to(moving)
    return matched


def local_contrast(image: Tensor, reach: float = 0.1) -> Tensor:
    """Grey levels relative to their neighbourhood: (I - mean) / standard deviation, 0 in the black frame of a film.

    Lungs become dark and mediastinum bright to the same degree in every exposure.

    Args:
        image: `[B, 1, H, W]` in [0, 1].
        reach: Standard deviation of the neighbourhood, all but a Gaussian, as a share of the longer side.

    Returns:
        `[B, 1, H, W]`, about -3 to 3.
    """
    out = torch.empty_like(image)
    sigma = reach * max(image.shape[-2:])
    for i in range(len(image)):
        values = np.nan_to_num(image[i, 0].detach().cpu().double().numpy(), posinf=0.0, neginf=0.0)
        exposed = (ndimage.gaussian_filter(values, 1.0) > 0.03).astype(np.float64)
        share = _around(exposed, sigma) + 1e-3
        centred = values - _around(exposed * values, sigma) / share
        spread = _around(exposed * centred**2, sigma) / share
        out[i, 0] = torch.from_numpy(exposed * centred / np.sqrt(spread + 1e-3)).to(out)
    return out


def _around(x: np.ndarray, sigma: float) -> np.ndarray:
    """Means of the neighbourhood: three boxes of variance sigma^2 / 3 each, in a time that forgets their size."""
    side = max(round(np.sqrt(4 * sigma**2 + 1)), 1)
    for _ in range(3):
        x = ndimage.uniform_filter(x, side, mode="nearest")
    return x


def affine_start(moving: Tensor, fixed: Tensor) -> Tensor:
    """The affine map that best correlates two images of different framing.

    Gauss-Newton on the squared difference of normalised small images, from several scales and shifts; the best
    normalised cross-correlation wins and is refined.

    Args:
        moving: `[B, 1, H, W]`, for different patients the `local_contrast` of an image.
        fixed: `[B, 1, H, W]`.

    Returns:
        Displacement `[B, 2, H, W]` in pixels.
    """
    height, width = fixed.shape[-2:]
    x, y = _grid(height, width)
    fields = []
    for i in range(len(fixed)):
        coarse, fine = ((_small(moving[i], size), _small(fixed[i], size)) for size in (COARSE, FINE))
        starts = np.array([[[np.exp(zoom), 0, 0], [0, np.exp(zoom), shift]] for zoom, shift in STARTS])
        followed = _gauss_newton(*coarse, _gauss_newton(*coarse, starts, 4)[:KEPT], 8)
        a = _gauss_newton(*fine, followed[:1], 20)[0]
        u = (a[0, 0] * x + a[0, 1] * y + a[0, 2] - x) * width / 2
        v = (a[1, 0] * x + a[1, 1] * y + a[1, 2] - y) * height / 2
        fields.append(torch.from_numpy(np.stack([u, v])))
    return torch.stack(fields).to(fixed)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres in [-1, 1]."""
    x, y = ((2 * np.arange(n) + 1) / n - 1 for n in (width, height))
    return np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))


def _small(image: Tensor, size: int) -> np.ndarray:
    small = F.interpolate(image[None].detach().cpu().double(), (size, size), mode="bilinear", antialias=True)
    return np.nan_to_num(small[0, 0].numpy())


def _gauss_newton(moving: np.ndarray, fixed: np.ndarray, starts: np.ndarray, iterations: int) -> np.ndarray:
    """Refines maps p -> a [x, y, 1] in coordinates of [-1, 1], side by side.

    Each step solves (J'J + D) da = J' d, with d the difference after `fixed` has been given the mean and spread of the
    warped image, J its derivative by a, and D a hundredth of J'J's diagonal; all over the pixels that fall inside.

    Args:
        moving: `[n, n]`.
        fixed: `[n, n]`.
        starts: `[S, 2, 3]`.
        iterations: At most; a map that settles or leaves the image stops by itself.

    Returns:
        `[S, 2, 3]`: of each start the map that correlated best on its way, the best one first.
    """
    n = len(fixed)
    x, y = (axis.ravel() for axis in _grid(n, n))
    slope_y, slope_x = np.gradient(moving, 2 / n)
    images = torch.from_numpy(np.stack([moving, slope_x, slope_y])[None])
    best, best_a, a, going = np.full(len(starts), -2.0), starts.copy(), starts.copy(), np.arange(len(starts))
    for _ in range(iterations):
        to = a[going, :, :1] * x + a[going, :, 1:2] * y + a[going, :, 2:]  # [S, 2, n n]
        inside = (np.abs(to) <= 1 - 1 / n).all(1)
        overlap = inside.mean(1)
        weight = inside / np.maximum(inside.sum(1, keepdims=True), 1)
        displacement = torch.from_numpy(((to - np.stack([x, y])) * n / 2).reshape(-1, 2, n, n))
        warped, wx, wy = warp(images.repeat(len(to), 1, 1, 1), displacement).flatten(2).numpy().swapaxes(0, 1)
        w_mean, f_mean = ((weight * image).sum(1, keepdims=True) for image in (warped, fixed.ravel()))
        w, f = warped - w_mean, fixed.ravel() - f_mean
        w_spread, f_spread = (np.sqrt((weight * image**2).sum(1, keepdims=True)) for image in (w, f))
        kept = (overlap >= MIN_OVERLAP / 2) & (w_spread[:, 0] > 0) & (f_spread[:, 0] > 0)
        going, inside, overlap, weight, wx, wy, w, f, w_spread, f_spread = (
            each[kept] for each in (going, inside, overlap, weight, wx, wy, w, f, w_spread, f_spread)
        )
        if not len(going):
            break
        correlation = (weight * w * f).sum(1) / (w_spread * f_spread)[:, 0] * np.minimum(1.0, overlap / MIN_OVERLAP)
        better = correlation > best[going]
        best[going[better]], best_a[going[better]] = correlation[better], a[going[better]]
        j = np.stack([wx * x, wx * y, wx, wy * x, wy * y, wy], axis=1) * inside[:, None]
        hessian = np.einsum("sin,sjn->sij", j, j)  # not BLAS, whose sums depend on its threads
        hessian += np.eye(6) * (0.01 * hessian + 1e-12)
        slope = np.einsum("sin,sn->si", j, f / f_spread * w_spread - w)
        step = np.linalg.solve(hessian, slope[..., None]).reshape(-1, 2, 3)
        a[going] += step
        going = going[np.abs(step).max((1, 2)) >= SETTLED]
    return best_a[np.argsort(-best, kind="stable")]
