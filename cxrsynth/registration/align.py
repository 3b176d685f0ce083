"""What makes two patients' images comparable before Demons: grey levels, local contrast and framing.

Everything is computed image by image in float64 on the CPU with one thread: neither batch nor threads change a bit.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

COARSE, FINE = 32, 64  # pixels a side of the images that the affine map is found on
STARTS = tuple(
    (zoom, shift) for zoom in (0.0, -0.2, 0.2) for shift in (0.0, -0.2, 0.2)
)  # log scale, shift down / half image
KEPT = 3  # starts that are followed after the first steps
SETTLED = 1e-3  # largest change of the map, in half images, at which it is found
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
        reach: Standard deviation of the Gaussian neighbourhood, as a share of the longer side.

    Returns:
        `[B, 1, H, W]`, about -3 to 3.
    """
    out = torch.empty_like(image)
    for i in range(len(image)):
        values = np.nan_to_num(image[i, 0].detach().cpu().double().numpy(), posinf=0.0, neginf=0.0)
        exposed = (ndimage.gaussian_filter(values, 1.0) > 0.03).astype(np.float64)

        def mean(
            x: np.ndarray, weight: np.ndarray = exposed, sigma: float = reach * max(image.shape[-2:])
        ) -> np.ndarray:
            near = {"sigma": sigma, "mode": "nearest", "truncate": 3.0}
            return ndimage.gaussian_filter(weight * x, **near) / (ndimage.gaussian_filter(weight, **near) + 1e-3)

        centred = values - mean(values)
        out[i, 0] = torch.from_numpy(exposed * centred / np.sqrt(mean(centred**2) + 1e-3)).to(out)
    return out


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
        starts = [np.array([[np.exp(zoom), 0, 0], [0, np.exp(zoom), shift]]) for zoom, shift in STARTS]
        tried = sorted((_gauss_newton(*coarse, a, 4) for a in starts), key=lambda result: -result[0])
        _, best = max((_gauss_newton(*coarse, a, 8) for _, a in tried[:KEPT]), key=lambda result: result[0])
        _, a = _gauss_newton(*fine, best, 20)
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


def _gauss_newton(moving: np.ndarray, fixed: np.ndarray, a: np.ndarray, iterations: int) -> tuple[float, np.ndarray]:
    """Refines p -> a [x, y, 1] in coordinates of [-1, 1]; returns the best correlation met and its matrix.

    Each step solves (J'J + D) da = J' d, with d the difference after `fixed` has been given the mean and spread of the
    warped image, J its derivative by a, and D a hundredth of J'J's diagonal.
    """
    n = len(fixed)
    x, y = _grid(n, n)
    slope_y, slope_x = np.gradient(moving, 2 / n)
    images = np.stack([moving, slope_x, slope_y])
    best = (-2.0, a)
    for _ in range(iterations):
        at = [((a[k, 0] * x + a[k, 1] * y + a[k, 2] + 1) * n - 1) / 2 for k in (1, 0)]
        inside = (at[0] >= 0) & (at[0] <= n - 1) & (at[1] >= 0) & (at[1] <= n - 1)
        if inside.mean() < MIN_OVERLAP / 2:
            break
        warped, wx, wy = _sample(images, at[0][inside], at[1][inside])
        goal = fixed[inside]
        spread, goal_spread = warped.std(), goal.std()
        if spread == 0 or goal_spread == 0:
            break
        goal = (goal - goal.mean()) / goal_spread
        correlation = (goal * (warped - warped.mean())).mean() / spread * min(1.0, inside.mean() / MIN_OVERLAP)
        best = max(best, (float(correlation), a), key=lambda result: result[0])
        px, py = x[inside], y[inside]
        j = np.stack([wx * px, wx * py, wx, wy * px, wy * py, wy])
        hessian = np.einsum("in,jn->ij", j, j)  # not BLAS, whose sums depend on its threads
        hessian += np.diag(0.01 * np.diag(hessian) + 1e-12)
        step = np.linalg.solve(hessian, np.einsum("in,n->i", j, goal * spread + warped.mean() - warped)).reshape(2, 3)
        a = a + step
        if np.abs(step).max() < SETTLED:
            break
    return best


def _sample(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Images `[3, n, n]` at positions inside them, bilinear, `[3, P]`."""
    n = images.shape[-1]
    top, left = (np.minimum(position.astype(np.int64), n - 2) for position in (rows, columns))
    down, right = rows - top, columns - left
    flat, first = images.reshape(len(images), -1), top * n + left
    upper = flat[:, first] * (1 - right) + flat[:, first + 1] * right
    lower = flat[:, first + n] * (1 - right) + flat[:, first + n + 1] * right
    return upper * (1 - down) + lower * down
