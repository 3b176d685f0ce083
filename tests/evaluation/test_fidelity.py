import numpy as np
import pytest
import torch

from cxrsynth.evaluation import edits
from cxrsynth.evaluation.fidelity import (
    RandomConvolutions,
    embed,
    frechet,
    kernel,
    precision_recall_density_coverage,
    similarity_within,
    with_floor,
)


def test_frechet_distance_of_gaussians_is_known():
    generator = np.random.default_rng(0)
    a = generator.normal(size=(40_000, 2))
    b = generator.normal(size=(40_000, 2)) * np.array([2.0, 1.0]) + np.array([3.0, 0.0])
    # squared distance of the means, and (1 - 2)^2 of the one deviation that differs
    assert frechet(a, b) == pytest.approx(9 + 1, rel=0.02)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_the_unbiased_cubic_one():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(30, 4)), generator.normal(size=(30, 4)) + 0.5
    k = lambda x, y: (x @ y.T / 4 + 1) ** 3  # noqa: E731
    off = ~np.eye(30, dtype=bool)
    expected = k(a, a)[off].mean() + k(b, b)[off].mean() - 2 * k(a, b).mean()
    assert kernel(a, b) == pytest.approx(expected)


def test_neighbourhoods_by_counting():
    generator = np.random.default_rng(2)
    same = precision_recall_density_coverage(generator.normal(size=(200, 3)), generator.normal(size=(200, 3)))
    assert min(same.values()) > 0.8
    far = precision_recall_density_coverage(generator.normal(size=(50, 3)), generator.normal(size=(50, 3)) + 50)
    assert far == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    collapsed = generator.normal(size=(1, 3)) * 0.1 + 1e-3 * generator.normal(size=(100, 3))
    found = precision_recall_density_coverage(generator.normal(size=(200, 3)), collapsed)
    assert found["precision"] > 0.9
    assert found["recall"] < 0.1


def test_the_floor_is_what_real_images_give_and_a_shift_lies_above_it():
    generator = np.random.default_rng(3)
    real, other = generator.normal(size=(120, 40)), generator.normal(size=(80, 40))
    fair = with_floor(real, other, generator.normal(size=(60, 40)))
    assert fair["images"] == 60
    assert fair["made"]["frechet"] == pytest.approx(fair["floor"]["frechet"], rel=0.15)
    shifted = with_floor(real, other, generator.normal(size=(60, 40)) + 1)
    assert shifted["made"]["frechet"] > 1.5 * shifted["floor"]["frechet"]
    assert with_floor(real[:5], other, other) == {}


def test_variety_and_embedding():
    images = torch.rand(6, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert similarity_within(images[:1].repeat(4, 1, 1, 1)) == pytest.approx(1, abs=1e-4)
    assert similarity_within(images) < 0.5
    assert np.isnan(similarity_within(images[:1]))
    features = embed(images, RandomConvolutions())
    assert features.shape == (6, 320)
    np.testing.assert_allclose(features, embed(0.5 * images + 0.2, RandomConvolutions()), atol=1e-4)


def test_seams_tone_and_unchanged_results():
    source = np.tile(np.linspace(0.2, 0.8, 32), (32, 1))
    region = np.zeros((32, 32), bool)
    region[8:20, 8:20] = True
    assert edits.seam(source, source, region) == pytest.approx(1)
    pasted = np.where(region, source + 0.3, source)
    assert edits.seam(source, pasted, region) > 3
    assert edits.tone(source, pasted, region) == pytest.approx(0.3)
    both = torch.tensor(np.stack([source, pasted]))[:, None]
    assert edits.unchanged(torch.tensor(source)[None, None].expand(2, 1, 32, 32), both) == 1


def test_a_detector_finds_a_trace_and_nothing_where_there_is_none():
    generator = np.random.default_rng(4)
    real, same = generator.normal(size=(80, 10)), generator.normal(size=(80, 10))
    patients = [str(n // 2) for n in range(80)]
    blind = edits.detector(real, same, patients, patients)
    assert blind["low"] < 0.5 < blind["high"]
    assert edits.detector(real, same + np.eye(10)[0] * 3, patients, patients)["low"] > 0.8
