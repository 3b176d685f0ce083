"""Numbers of round shadows in the lungs: is it a nodule, a vessel seen end on, a crossing of ribs, or a blur?"""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

from cxrsynth.data.phantom.anatomy import Anatomy
from cxrsynth.data.phantom.layers import Layers, Measured

CANDIDATES = 9


def round_candidates(anatomy: Anatomy, layers: Layers) -> tuple[tuple[Measured, ...], tuple[tuple[int, int], ...]]:
    """The roundest bright spots in the lungs: scale-normalised Laplacian maxima, described by ring and shape."""
    field = gaussian_filter(np.maximum(anatomy.lungs[0].field, anatomy.lungs[1].field), 1.0)
    scales = (1.6, 2.3, 3.3)
    blurred = [gaussian_filter(layers.grey, s, truncate=3) for s in (*scales, 4.8)]
    stack = np.stack([blurred[k] - blurred[k + 1] for k in range(3)])
    response = stack.max(0) * (field > 0.35)
    peaks = (response == maximum_filter(response, 7)) & (response > 0.01)
    rows, columns = np.nonzero(peaks)
    order = np.argsort(response[rows, columns])[::-1][:CANDIDATES]
    g = blurred[0]
    gy, gx = np.gradient(g)
    numbers, places = [], []
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radii = np.arange(0.0, 10.0)
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        ring_rows, ring_columns = row + radii[:, None] * np.sin(angles), column + radii[:, None] * np.cos(angles)
        rays = map_coordinates(layers.grey, [ring_rows, ring_columns], order=1, mode="nearest")
        profile = rays.mean(1)
        steps = np.diff(gaussian_filter(rays, (0.6, 0.6), mode=("nearest", "wrap")), axis=0)
        edge = int(np.argmin(np.diff(profile)[1:8])) + 1
        contrast = rays[: max(edge, 2)].mean() - np.median(rays[edge + 1 : edge + 4])
        ring = rays[: max(edge, 2)].mean() - rays[min(edge + 2, 9)]
        gradient = np.hypot(
            gx[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4],
            gy[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4],
        )
        at = (row, column)
        lung = anatomy.lungs[0] if anatomy.lungs[0].field[at] >= anatomy.lungs[1].field[at] else anatomy.lungs[1]
        numbers.append(
            {
                **{f"round {k}": float(stack[k][at]) for k in range(3)},
                "centre": float(layers.smooth[at]),
                "contrast": float(contrast),
                "ring least": float(np.sort(ring)[:3].mean()),
                "ring spread": float(ring.std()),
                "edge radius": edge / 10,
                "edge steep": float(-np.diff(profile)[edge]),
                "edge least": float(np.sort(-steps[edge])[:4].mean()),
                "steep over height": float(-np.diff(profile)[edge] / max(contrast, 0.05)),
                "flat top": float(profile[0] - profile[max(1, edge - 1)]),
                "gradient": float(gradient.max()),
                "texture": float(layers.texture[at]),
                "lateral": float(abs(lung.lateral[at] - 0.5)),
                "medial": float(lung.lateral[at]),
                "depth": float(lung.depth[at]),
                "deep": float(max(lung.depth[at] - 0.75, 0)),
                "field": float(field[at]),
            }
        )
        places.append(at)
    return tuple(numbers), tuple(places)
