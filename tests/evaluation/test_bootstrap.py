import numpy as np
import pytest

from cxrsynth.evaluation.bootstrap import bootstrap, cluster_weights


def mean(values):
    return lambda weights: (weights @ values / weights.sum(axis=1))[:, None]


def test_images_of_a_patient_are_drawn_together():
    patients = ["a", "b", "a", None, None, "c"]
    weights = np.concatenate(list(cluster_weights(patients, 4000, seed=0)))
    assert weights.shape == (4000, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 3] != weights[:, 4]).any()  # two unknown patients are two patients
    drawn = weights[:, [0, 1, 3, 4, 5]]  # one image of each of the five patients
    assert (drawn.sum(axis=1) == 5).all()
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.06)


def test_seed_decides_and_chunks_do_not(monkeypatch):
    whole = np.concatenate(list(cluster_weights(list("abcdefg"), 50, seed=3)))
    monkeypatch.setattr("cxrsynth.evaluation.bootstrap.CHUNK", 70)
    parts = list(cluster_weights(list("abcdefg"), 50, seed=3))
    assert len(parts) == 5
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (np.concatenate(list(cluster_weights(list("abcdefg"), 50, seed=4))) != whole).any()


def test_interval_of_a_mean_has_the_width_of_theory():
    generator = np.random.default_rng(0)
    values = generator.normal(size=400)
    (interval,) = bootstrap(mean(values), list(range(400)))
    error = values.std() / np.sqrt(400)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_clusters_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).normal(size=40), 10)
    (independent,) = bootstrap(mean(values), list(range(400)))
    (clustered,) = bootstrap(mean(values), np.repeat(np.arange(40), 10).tolist())
    ratio = (clustered.high - clustered.low) / (independent.high - independent.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.15)


def test_interval_covers_the_truth_at_its_level():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        patients = np.repeat(np.arange(60), 3)
        values = generator.normal(size=60)[patients] + generator.normal(size=180)
        (interval,) = bootstrap(mean(values), patients.tolist(), draws=500, seed=seed)
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_undefined_statistics_and_few_patients_have_no_limits():
    def mostly_undefined(weights):
        return np.where(weights[:, :1] > 1, 1.0, np.nan) if len(weights) > 1 else np.ones((1, 1))

    (interval,) = bootstrap(mostly_undefined, list(range(20)))
    assert interval.estimate == 1
    assert np.isnan([interval.low, interval.high]).all()
    (few,) = bootstrap(mean(np.arange(8.0)), list("aabbccdd"))
    assert few.estimate == 3.5
    assert np.isnan([few.low, few.high]).all()
