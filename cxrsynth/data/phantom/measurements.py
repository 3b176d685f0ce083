"""What can be measured on a chest film, located on anatomy found in its pixels; each number has a name."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from cxrsynth.data.phantom.anatomy import Anatomy
from cxrsynth.data.phantom.base_measures import base_numbers, lower_lungs
from cxrsynth.data.phantom.estimate import align, estimate_anatomy
from cxrsynth.data.phantom.film_measures import film_numbers
from cxrsynth.data.phantom.layers import WORKING_SIZE, Layers, Measured, Unrolled
from cxrsynth.data.phantom.lung_measures import lung_numbers
from cxrsynth.data.phantom.round_measures import round_candidates
from cxrsynth.data.phantom.shapes import Array


@dataclass(frozen=True)
class Measurements:
    """Named numbers of one film: `sides` right and left lung, `candidates` round shadows, `film` the whole."""

    sides: tuple[Measured, Measured]
    candidates: tuple[Measured, ...]
    places: tuple[tuple[int, int], ...]
    film: Measured


def measure_film(image: Array, anatomy: Anatomy | None = None) -> Measurements:
    """Measure one film.

    Args:
        image: `[H, W]` float32 in [0, 1]; brought to 128 x 128 first.
        anatomy: Of the film at 128 x 128, where it is known better than from these pixels.
    """
    image = _working(image)
    placement = align(image)
    anatomy = anatomy or estimate_anatomy(image, placement=placement)
    layers = Layers.of(image, anatomy)
    pair = [Unrolled.of(layers, lung) for lung in anatomy.lungs]
    right, left = (lung_numbers(lung, pair[k], pair[1 - k]) for k, lung in enumerate(anatomy.lungs))
    for numbers, own, other in (
        (right, *lower_lungs(placement, layers)),
        (left, *lower_lungs(placement, layers)[::-1]),
    ):
        numbers |= base_numbers(own, other)
    sides = tuple(
        own | {f"{name} vs other": own[name] - other[name] for name in own}
        for own, other in ((right, left), (left, right))
    )
    candidates, places = round_candidates(anatomy, layers)
    return Measurements((sides[0], sides[1]), candidates, places, film_numbers(placement, anatomy, layers, right, left))


def _working(image: Array) -> Array:
    if image.shape == (WORKING_SIZE, WORKING_SIZE):
        return image.astype(np.float32)
    factor = image.shape[0] / WORKING_SIZE
    smooth = gaussian_filter(image, 0.35 * factor) if factor > 1.3 else image
    zooms = [WORKING_SIZE / n for n in image.shape]
    return zoom(smooth, zooms, order=1, grid_mode=True, mode="nearest").astype(np.float32)
