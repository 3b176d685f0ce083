"""Intervals over patients and trainings: coverage and false positives by simulation."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from cxrsynth.evaluation.metrics import METRICS
from cxrsynth.evaluation.multiple import holm
from cxrsynth.evaluation.trainings import Draws, metric_draws, shares, spread, spreads


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
