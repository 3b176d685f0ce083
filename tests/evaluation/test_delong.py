"""DeLong's test against pROC's published example, sklearn, and the bootstrap."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrsynth.evaluation.bootstrap import bootstrap
from cxrsynth.evaluation.delong import delong, delong_test, placements
from cxrsynth.evaluation.metrics import auroc

# The aSAH patients of pROC (Turck et al. 2010): 41 with a poor outcome, then 72 with a good one. Grade of the WFNS and
# rank of S100-beta, which is all that a ROC curve sees.
WFNS = (
    "32455552521254425552525245441442255225555111151221221112121134141551124112212122111121211324214115422111312244111"
)
S100B = """8 5 11 7 25 30 28 2 19 4 2 23 21 27 30 15 30 30 30 2 30 17 0 4 13 30 15 30 3 15 8 5 6 13 30 9 30 18 30 30 25
8 9 5 1 26 12 5 5 1 3 1 4 6 2 12 2 6 8 12 1 11 9 20 4 29 26 11 2 24 26 6 3 4 3 1 8 5 9 10 1 1 4 1 4 3 11 4 3 19 6 16
2 5 18 2 1 14 22 5 10 3 9 5 2 1 12 10 26 12 10 29 27"""


def asah():
    scores = np.array([[float(grade) for grade in WFNS], [float(rank) for rank in S100B.split()]])
    return np.repeat([1.0, 0.0], [41, 72]), scores


def test_procs_published_example():
    truth, (wfns, s100b) = asah()
    areas, _ = delong(truth, np.stack([wfns, s100b]))
    np.testing.assert_allclose(areas, [0.823678861788618, 0.731368563685637], atol=1e-12)
    found = delong_test(truth, s100b[None], wfns[None])
    assert found.difference / found.error == pytest.approx(2.20898359144091, abs=1e-9)
    assert found.p == pytest.approx(0.0271757822291882, abs=1e-10)
    assert (found.low, found.high) == pytest.approx((0.0104061769564846, 0.174214419249478), abs=1e-9)


def test_placements_are_counts_of_pairs():
    generator = np.random.default_rng(0)
    truth, scores = (generator.random(40) < 0.4).astype(float), generator.integers(0, 8, (2, 40)).astype(float)
    above, below = placements(truth, scores)
    cases, controls = scores[:, truth == 1], scores[:, truth == 0]
    pairs = (cases[:, :, None] > controls[:, None]) + 0.5 * (cases[:, :, None] == controls[:, None])
    np.testing.assert_allclose(above, pairs.mean(2))
    np.testing.assert_allclose(below, pairs.mean(1))
    assert above.mean(1)[0] == pytest.approx(roc_auc_score(truth, scores[0]))


@pytest.mark.parametrize("images", [1, 3])
def test_it_agrees_with_the_patient_bootstrap(images):
    generator = np.random.default_rng(1)
    patients = np.repeat(np.arange(150), images)
    truth = np.repeat((generator.random(150) < 0.4).astype(float), images)
    common = np.repeat(generator.normal(size=(2, 150)), images, axis=1)
    scores = common + 0.3 * generator.normal(size=(2, len(truth))) + np.array([[0.7], [1.2]]) * truth
    areas, covariance = delong(truth, scores, patients.tolist())
    found = bootstrap(
        lambda weights: np.stack([auroc(row, truth, weights) for row in scores], 1), patients.tolist(), draws=1500
    )
    for index, interval in enumerate(found):
        assert interval.estimate == pytest.approx(areas[index])
        error = (interval.high - interval.low) / 3.92
        assert error == pytest.approx(np.sqrt(covariance[index, index]), rel=0.08)


def test_patients_with_many_images_widen_it_and_lone_images_do_not():
    generator = np.random.default_rng(2)
    truth, score = np.repeat([1.0, 0.0], 30), generator.normal(size=(1, 60))
    once = delong(truth, score)[1]
    np.testing.assert_allclose(delong(truth, score, list(range(60)))[1], once)
    again, patients = np.tile(truth, 4), np.tile(np.arange(60), 4).tolist()
    assert delong(again, np.tile(score, 4), patients)[1][0, 0] == pytest.approx(once[0, 0], rel=0.05)
    assert delong(again, np.tile(score, 4))[1][0, 0] < 0.3 * once[0, 0]


def test_trainings_are_averaged_and_equal_ones_do_not_differ():
    truth, scores = asah()
    assert delong_test(truth, scores, scores).p == 1
    both = delong_test(truth, scores[1:], scores)
    assert both.difference == pytest.approx(delong_test(truth, scores[1:], scores[:1]).difference / 2)


def test_one_patient_of_a_kind_has_no_error():
    areas, covariance = delong(np.array([1.0, 0, 0]), np.array([[3.0, 1, 2]]))
    assert areas.tolist() == [1.0]
    assert np.isnan(covariance).all()
    assert np.isnan(delong(np.zeros(3), np.ones((1, 3)))[0]).all()
