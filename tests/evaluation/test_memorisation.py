import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from cxrsynth.evaluation.memorisation import (
    ALPHA,
    MEMORISED,
    NEARER,
    NO_SIGN,
    calibrated,
    chance_limit,
    compare_images,
    nearness,
    pictures,
    share_limits,
)


def films(count: int, seed: int, size: int = 24) -> torch.Tensor:
    """Smooth random films: all of one kind, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear") * 0.6 + 0.2


def test_copies_are_found_whatever_their_tone_and_new_images_are_not():
    training, held_out = films(200, 0), films(100, 1)
    owners = [f"p{n}" for n in range(200)]
    fresh = compare_images(films(60, 2), training, held_out, [""] * 60, owners)
    assert not fresh.memorised
    assert fresh.share < 0.15
    noise = 0.01 * torch.randn(60, 1, 24, 24, generator=torch.Generator().manual_seed(3))
    copied = compare_images(0.8 * training[:60] + 0.1 + noise, training, held_out, [""] * 60, owners)
    assert copied.memorised
    assert copied.nearest.tolist() == list(range(60))
    assert copied.share > 0.95


def test_the_sources_own_patient_does_not_count():
    training, held_out = films(200, 0), films(100, 1)
    owners = [f"p{n}" for n in range(200)]
    edited = compare_images(training[:60], training, held_out, owners[:60], owners)
    assert not edited.memorised
    assert all(nearest != number for number, nearest in enumerate(edited.nearest))


def test_a_copied_lesion_is_found_in_an_own_surrounding():
    training, held_out = films(150, 0), films(80, 1)
    region = torch.zeros(24, 24, dtype=torch.bool)
    region[6:16, 8:18] = True
    made = films(40, 2)
    pasted = torch.where(region, training[:40], made)
    arguments = (training, held_out, [""] * 40, [f"p{n}" for n in range(150)])
    regions = region.expand(40, 24, 24)
    assert not compare_images(pasted, *arguments).memorised
    assert compare_images(pasted, *arguments, regions).memorised
    assert not compare_images(made, *arguments, regions).memorised
    untested = compare_images(pasted[:1], training, held_out, [""], arguments[3], torch.zeros(1, 24, 24, dtype=bool))
    assert np.isnan(untested.share)


def test_p_values_of_new_images_are_uniform():
    training, held_out = films(150, 0), films(200, 1)
    p = compare_images(films(200, 5), training, held_out, [""] * 200, [str(n) for n in range(150)]).p
    assert abs(np.mean(p <= 0.05) - 0.05) < 0.05
    assert abs(np.mean(p <= 0.5) - 0.5) < 0.12


def test_nearness_is_a_ratio_of_distances():
    training = np.array([[0.6, 0.8], [0.8, -0.6], [-1.0, 0.0], [0.0, 1.0]])
    query = np.array([[1.0, 0.0]])
    ratio, nearest = nearness(query, training, np.zeros((1, 4), bool))
    distances = np.sort(np.linalg.norm(training - query, axis=1))
    np.testing.assert_allclose(ratio[0], distances[0] / distances[1:].mean())
    assert nearest[0] == 1
    assert np.isnan(nearness(query, training, np.array([[True, True, False, False]]))[0][0])
    assert pictures(torch.full((1, 1, 9, 9), 0.5)).tolist() == [[0.0] * 576]


def test_a_shares_limits_count_patients():
    hits = np.arange(60) < 9
    alone = binomtest(9, 60).proportion_ci()
    own = share_limits(hits, [""] * 60)
    assert own == pytest.approx((alone.low, alone.high), abs=0.005)
    # Four images of each patient, alike: they say no more than one of each.
    assert share_limits(np.repeat(hits, 4), np.repeat([f"p{i}" for i in range(60)], 4)) == pytest.approx(own, abs=0.01)
    assert share_limits(np.zeros(60, bool), [""] * 60) == pytest.approx((0, binomtest(0, 60).proportion_ci().high))
    assert share_limits(np.ones(8, bool), ["a"] * 4 + ["b"] * 4)[0] < share_limits(np.ones(8, bool), [""] * 8)[0]


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_patients_that_do_not_differ_count_image_by_image_whatever_rounding_does(size):
    hits = np.tile(np.arange(size) == 0, 12)  # the same share of each patient: no variance, exactly or but for rounding
    owners = np.repeat([f"p{i}" for i in range(12)], size)
    exact = binomtest(int(hits.sum()), len(hits)).proportion_ci()
    assert share_limits(hits, owners) == pytest.approx((exact.low, exact.high))


def test_the_limits_hold_the_true_share_of_clustered_images():
    draw, held, runs = np.random.default_rng(0), 0, 400
    owners = np.repeat([f"p{i}" for i in range(40)], 4)
    for _ in range(runs):
        patient = np.repeat(draw.beta(0.5, 4.5, 40), 4)  # 10 % on average, alike within a patient
        low, high = share_limits(draw.random(160) < patient, owners)
        held += low <= 0.1 <= high
    assert held / runs >= 0.93


def test_the_limit_of_chance_is_that_of_an_order_statistic():
    draw = np.random.default_rng(0)
    fifth = np.sort(draw.random((20000, 100)), axis=1)[:, 4]  # a ratio below it has p <= 5 / 101
    assert chance_limit(100, 100) == pytest.approx(np.quantile(fifth, 0.975), abs=0.002)
    assert chance_limit(100, 25) > chance_limit(100, 100) > chance_limit(1000, 1000) > ALPHA
    assert chance_limit(18, 18) == 0  # p is never 0.05 or less
    assert 0 < chance_limit(19, 19) < 0.2


@pytest.mark.parametrize(
    ("images", "held_out", "alike"),
    [(60, 40, 1), (200, 100, 1), (200, 40, 1), (600, 100, 1), (200, 100, 4), (200, 400, 4)],
)
def test_images_that_copy_nothing_are_rarely_called_near(images, held_out, alike):
    draw, runs, words = np.random.default_rng(1), 300, []

    def patients(count):
        """Ratios, those of one patient the same, and the patients' names."""
        return np.repeat(draw.random(count // alike), alike), [f"p{n // alike}" for n in range(count)]

    for _ in range(runs):
        (ratios, owners), (others, theirs) = patients(images), patients(held_out)
        words.append(calibrated(ratios, np.zeros(images, int), [others] * images, owners, theirs).word)
    assert words.count(NO_SIGN) / runs >= 0.95


def test_each_word_has_its_share():
    others, nearest = np.linspace(0.1, 1, 400), np.zeros(400, int)
    for copies, word in ((20, NO_SIGN), (36, NO_SIGN), (60, NEARER), (100, MEMORISED)):
        ratios = np.where(np.arange(400) < copies, 0.05, 0.9)
        found = calibrated(ratios, nearest, [others] * 400, [""] * 400)
        assert found.word == word
        assert found.memorised == (word == MEMORISED)
