"""Boxes and outlines, each against a definition of its own."""

import numpy as np
import pytest

from cxrsynth.synthesis.detection import parts_of, yolo_box, yolo_polygon


def decoded(counts: list[int], size: list[int]) -> np.ndarray:
    """COCO's uncompressed run-length code, read as its specification says."""
    flat = np.concatenate([np.full(n, i % 2, bool) for i, n in enumerate(counts)])
    return flat.reshape(size[1], size[0]).T


def inside(polygon: list[tuple[float, float]], x: float, y: float) -> bool:
    """Crossings of a ray to the right."""
    hits = 0
    for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            hits += 1
    return hits % 2 == 1


@pytest.fixture
def region() -> np.ndarray:
    """A block in the upper left corner, a ring, and two pixels that touch at a corner."""
    region = np.zeros((30, 40), bool)
    region[0:4, 0:6] = True
    y, x = np.ogrid[:30, :40]
    radius = np.hypot(y - 18, x - 25)
    region |= (radius < 8) & (radius > 3)
    region[28, 2] = region[29, 3] = True
    return region


def test_parts_are_the_connected_components_with_their_boxes(region):
    parts = parts_of(region)
    assert sorted(part.box for part in parts) == [(0, 0, 6, 4), (2, 28, 4, 30), (18, 11, 33, 26)]
    assert sum(part.area for part in parts) == region.sum()


def test_run_lengths_hold_the_region_pixel_by_pixel(region):
    whole = np.zeros_like(region)
    for part in parts_of(region):
        whole |= decoded(part.run_lengths(), [30, 40])
    np.testing.assert_array_equal(whole, region)


def test_a_part_that_starts_in_the_first_pixel_starts_with_a_run_of_no_zeros():
    (part,) = parts_of(np.ones((3, 2), bool))
    assert part.run_lengths() == [0, 6]


def test_polygons_hold_the_pixels_of_the_part_and_no_others(region):
    part = max(parts_of(region), key=lambda p: p.area)
    filled = region.copy()
    filled[15:22, 22:29] = True  # an outline cannot have a hole
    polygon = part.polygon()
    x_min, y_min, x_max, y_max = part.box
    for y in range(y_min - 1, y_max + 1):
        for x in range(x_min - 1, x_max + 1):
            assert inside(polygon, x + 0.5, y + 0.5) == filled[y, x], (x, y)


def test_yolo_lines_are_shares_of_the_image(region):
    part = next(p for p in parts_of(region) if p.box == (0, 0, 6, 4))
    assert yolo_box(2, part) == f"2 {3 / 40:.6f} {2 / 30:.6f} {6 / 40:.6f} {4 / 30:.6f}"
    numbers = [float(text) for text in yolo_polygon(0, part).split()[1:]]
    assert len(numbers) >= 6
    assert min(numbers) >= 0
    assert max(numbers[::2]) == pytest.approx(6 / 40, abs=1e-6)
    assert max(numbers[1::2]) == pytest.approx(4 / 30, abs=1e-6)
