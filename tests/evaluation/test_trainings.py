"""Intervals over patients and trainings: coverage and false positives by simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from cxrsynth.evaluation.bootstrap import cluster_weights
from cxrsynth.evaluation.metrics import METRICS
from cxrsynth.evaluation.multiple import holm
from cxrsynth.evaluation.trainings import (
    Draws,
    between_trainings,
    mean_draws,
    metric_draws,
    shares,
    spread,
    spreads,
)


def table(generator, truth, skill, effects) -> pd.DataFrame:
    """Predictions of one training: a common difficulty of each image, an error of its own, a skill of its own."""
    score = skill * truth + effects + 0.5 * generator.normal(size=len(truth))
    patients = [f"p{n // 2}" for n in range(len(truth))]
    columns = {"image_id": [str(n) for n in range(len(truth))], "patient_id": patients}
    return pd.DataFrame({**columns, "A_prob": 1 / (1 + np.exp(-score)), "A_true": truth})


def study(generator, skills: tuple[float, float], between: float, trainings: int = 3):
    """Two arms on the same 200 images, each training's skill drawn around the arm's."""
    truth = (generator.random(200) < 0.3).astype(float)
    effects = generator.normal(size=200)
    arms = [[table(generator, truth, skill + between * generator.normal(), effects) for _ in range(trainings)]
            for skill in skills]  # fmt: skip
    first, second = (metric_draws(arm, METRICS["auroc"], draws=200) for arm in arms)
    return spreads(second - first, seed=int(generator.integers(2**31)))[0]


def test_under_the_null_a_gain_is_found_at_most_as_often_as_the_level_says():
    generator = np.random.default_rng(0)
    found = [study(generator, (1.0, 1.0), between=0.3) for _ in range(120)]
    assert np.mean([s.low > 0 for s in found]) <= 0.05  # nominal 0.025
    assert np.mean([s.p < 0.05 for s in found]) <= 0.09
    assert np.mean([s.low <= 0 <= s.high for s in found]) >= 0.91


def test_a_true_gain_is_found():
    generator = np.random.default_rng(1)
    found = [study(generator, (0.5, 2.0), between=0.1) for _ in range(20)]
    assert np.mean([s.low > 0 for s in found]) > 0.9


def test_without_patients_it_is_students_interval():
    full = np.array([0.3, 0.5, 0.4, 0.6])
    found = spread(full, np.repeat(full[:, None], 40_000, axis=1))
    reach = t.ppf(0.975, 3) * full.std(ddof=1) / 2
    assert found.estimate == pytest.approx(0.45)
    assert found.deviation == pytest.approx(full.std(ddof=1))
    assert found.high - found.estimate == pytest.approx(reach, rel=0.04)


def test_one_training_has_no_deviation_and_trainings_are_paired():
    generator = np.random.default_rng(3)
    truth = (generator.random(200) < 0.3).astype(float)
    arm = [table(generator, truth, 1.0, generator.normal(size=200))]
    draws = metric_draws(arm, METRICS["auroc"], draws=100)
    (alone,) = spreads(draws)[:1]
    assert np.isnan(alone.deviation)
    assert alone.low < alone.estimate < alone.high
    (nothing,) = spreads(draws - draws)[:1]
    assert (nothing.estimate, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)


def test_too_few_patients_have_no_limits():
    few = pd.DataFrame({"image_id": list("abcd"), "patient_id": list("ppqq"), "A_prob": 0.5, "A_true": [0, 1, 0, 1.0]})
    assert np.isnan(spreads(metric_draws([few, few], METRICS["auroc"]))[0].low)


def simulated_arms(generator, skill: list[float], trainings: int, patients: int = 60) -> list[Draws]:
    """Arms of equal mean: a score of each patient that all share, errors of each training, and its skill."""
    shared = generator.normal(size=patients)[:, None]
    names = [str(number) for number in range(patients)]
    own = np.repeat(skill, trainings) * generator.normal(size=len(skill) * trainings)
    scores = shared + own + generator.normal(size=(patients, len(own)))
    every = mean_draws(list(scores.T[:, :, None]), names, draws=150)
    parts = [slice(start, start + trainings) for start in range(0, len(own), trainings)]
    return [Draws(every.full[part], every.drawn[part]) for part in parts]


def coverage(skill: list[float], trainings: int, studies: int, pooled: bool) -> tuple[float, float]:
    """How often the interval of the last arm's gain over the first holds the truth, 0; and its mean width."""
    generator = np.random.default_rng(7)
    found = []
    for _ in range(studies):
        arms = simulated_arms(generator, skill, trainings)
        between = between_trainings(arms) if pooled else None
        found.append(spreads(arms[-1] - arms[0], int(generator.integers(2**31)), between=between)[0])
    return float(np.mean([s.low <= 0 <= s.high for s in found])), float(np.mean([s.high - s.low for s in found]))


@pytest.mark.parametrize("trainings", [2, 3])
def test_intervals_with_a_pooled_spread_cover_as_often_as_they_say(trainings):
    covered, width = coverage([0.2] * 8, trainings, 250, pooled=True)
    assert covered >= 0.935  # 0.95 with a standard error of 0.014
    alone, wider = coverage([0.2] * 8, trainings, 60, pooled=False)
    assert alone >= 0.96
    assert wider > 1.4 * width  # which is why it is pooled


def test_an_arm_with_twice_the_spread_is_covered_less_often():
    covered, _ = coverage([0.2] * 7 + [0.4], 3, 250, pooled=True)
    assert 0.84 <= covered <= 0.95  # what the design says of it


def test_the_pooled_spread_is_the_mean_square_within_arms():
    generator = np.random.default_rng(5)
    values = [generator.normal(size=(size, 1)) for size in (3, 3, 2, 1)]
    arms = [Draws(value, np.repeat(value[:, None], 500, axis=1)) for value in values]  # no chance of patients
    between = between_trainings(arms)
    assert between is not None
    within = sum(((value - value.mean()) ** 2).sum() for value in values)
    assert between.freedom == 2 + 2 + 1
    assert between.variance[0] == pytest.approx(within / 5)
    gain = spreads(arms[0] - arms[1], between=between)[0]
    reach = t.ppf(0.975, 5) * np.sqrt(within / 5 * (1 / 3 + 1 / 3))
    assert gain.estimate == pytest.approx(values[0].mean() - values[1].mean())
    assert gain.high - gain.estimate == pytest.approx(reach, rel=0.25)  # 500 draws
    assert between_trainings(arms[3:]) is None


def test_errors_on_other_patients_count_twice_on_the_safe_side():
    covered, width = coverage([0.0] * 6, 3, 60, pooled=True)
    once = t.ppf(0.975, 12) * np.sqrt((1 / 3 + 1 / 3) / 60)  # each training's mean errs by 1 / 60
    assert covered >= 0.95
    assert 1.2 * once < width / 2 < 1.45 * once


def test_arms_with_another_spread_are_told():
    generator = np.random.default_rng(8)
    same, other = (between_trainings([Draws(x, x[:, None]) for x in arms]) for arms in (
        [generator.normal(size=(8, 1)) for _ in range(4)],
        [generator.normal(size=(8, 1)) * scale for scale in (1, 1, 1, 12)],
    ))  # fmt: skip
    assert same is not None
    assert other is not None
    assert other.unequal[0] < 0.001 < same.unequal[0]


def test_means_over_images_leave_out_what_has_no_score():
    values = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, np.nan], [2.0, 7.0], [2.0, np.nan], [2.0, np.nan]])
    found = mean_draws([values], list("abcdef"), draws=50)
    np.testing.assert_allclose(found.full, [[2.0, 6.0, 4.0]])
    weights = np.concatenate(list(cluster_weights(list("abcdef"), 50, 0)))
    drawn = [np.average([1, 3, 2, 2, 2], weights=w[[0, 1, 3, 4, 5]]) for w in weights]
    np.testing.assert_allclose(found.drawn[0, :, 0], drawn)


def test_holm_steps_down_and_leaves_out_what_was_not_tested():
    # Holm's procedure by hand: 0.01 x 3, then max(0.03, 0.03 x 2), then max(0.06, 0.04)
    np.testing.assert_allclose(holm([0.04, 0.01, float("nan"), 0.03]), [0.06, 0.03, float("nan"), 0.06])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert np.isnan(holm([float("nan")])).all()


def test_limits_of_shares_stay_shares():
    wild = Draws(np.array([[0.6], [0.99]]), np.array([[[0.6]] * 50, [[0.99]] * 50]))
    assert spreads(wild)[0].high > 1
    (found,) = shares(wild)
    assert (found.low, found.high) == (0, 1)
