"""Each measure of a painted image on images where its value is known."""

import numpy as np
import pytest
import torch

from cxrsynth.synthesis.lesions import Lesions
from cxrsynth.synthesis.measures import asked_gain, lungs_kept, off_target_drift, out_of_range, patch_of, seam


@pytest.fixture
def region() -> torch.Tensor:
    region = torch.zeros(1, 32, 32, dtype=torch.bool)
    region[:, 8:20, 10:24] = True
    return region


def test_gain_is_the_smallest_rise_of_what_was_asked_and_drift_the_largest_change_of_the_rest():
    before, after = torch.tensor([0.1, 0.5, 0.2, 0.3]), torch.tensor([0.6, 0.6, 0.0, 0.9])
    assert asked_gain(before, after, [0, 1]) == pytest.approx(np.log(0.6 / 0.4))  # from even odds
    assert off_target_drift(before, after, [0, 1, 3]) == pytest.approx(0.2)
    assert off_target_drift(before, after, [0, 1, 2, 3]) == 0


def test_a_gain_counts_also_where_the_scorer_is_sure_that_the_source_is_healthy():
    sure, less = torch.tensor([1e-5]), torch.tensor([1e-3])
    assert asked_gain(sure, less, [0]) == pytest.approx(np.log(1e-3 / 0.999) - np.log(1e-5 / 0.99999), rel=1e-4)
    assert asked_gain(torch.tensor([0.0]), torch.tensor([1e-9]), [0]) == 0  # both as good as sure


def test_a_step_at_the_edge_is_a_seam_and_a_change_that_fades_in_is_none(region):
    source = torch.linspace(0, 1, 32).expand(1, 32, 32)
    assert seam(source, source, region) == 1
    step = source + 0.2 * region
    edge = 2 * (12 + 14)  # pairs of neighbours across it, all with a step of 0.2 more or less
    slope = 1 / 31
    plain = (24 * slope + 28 * 0) / edge + 0.5 / 255
    painted = (12 * abs(slope + 0.2) + 12 * abs(slope - 0.2) + 28 * 0.2) / edge + 0.5 / 255
    assert seam(step, source, region) == pytest.approx(painted / plain, rel=1e-4)
    inner = torch.zeros_like(region)
    inner[:, 10:18, 12:22] = True
    assert seam(source + 0.2 * inner, source, region) == 1


def test_out_of_range_counts_the_pixels_beyond_the_rest_of_the_film(region):
    image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    image[region] = 0.5
    assert out_of_range(image, region) == 0
    image[:, 8:11, 10:24] = 1.0  # three of twelve rows
    assert out_of_range(image, region) == pytest.approx(0.25)


def test_lungs_are_compared_outside_the_region_alone(region):
    lungs = torch.zeros(1, 32, 32, dtype=torch.bool)
    lungs[:, :16] = True
    painted = lungs & ~region
    assert lungs_kept(lungs, painted, region) == 1
    moved = lungs.roll(2, dims=1)
    first, second = lungs & ~region, moved & ~region
    expected = 2 * (first & second).sum() / (first.sum() + second.sum())
    assert lungs_kept(lungs, moved, region) == pytest.approx(float(expected))


def test_patches_are_compared_by_correlation_whatever_their_grey_levels(region):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 32, 32, generator=generator)
    patch = patch_of(image, region, 8)
    assert patch.norm() == pytest.approx(1, abs=1e-5)
    assert patch @ patch_of(0.5 * image + 0.2, region, 8) == pytest.approx(1, abs=1e-4)
    assert patch @ patch_of(1 - image, region, 8) == pytest.approx(-1, abs=1e-4)
    assert abs(patch @ patch_of(torch.rand(1, 32, 32, generator=generator), region, 8)) < 0.6


def test_the_nearest_lesion_is_found_in_chunks_and_never_in_the_same_patient(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(50, 16))
    patches = (patches / np.linalg.norm(patches, axis=1, keepdims=True)).astype(np.float16)
    names = np.array([f"i{k}" for k in range(50)])
    lesions = Lesions(patches, names, np.array([f"p{k // 2}" for k in range(50)]))
    monkeypatch.setattr("cxrsynth.synthesis.lesions.CHUNK", 7)
    query = patches[31].astype(np.float32)
    assert lesions.nearest(query)[1] == "i31"
    products = patches.astype(np.float32) @ query
    products[[30, 31]] = -1  # patient p15
    value, name = lesions.nearest(query, "p15")
    assert (value, name) == (pytest.approx(products.max(), abs=1e-6), f"i{products.argmax()}")
    again = Lesions.load(lesions.save(tmp_path / "lesions.npz"))
    assert again.nearest(query) == lesions.nearest(query)
