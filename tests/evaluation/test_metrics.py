import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from cxrsynth.evaluation import metrics


@pytest.fixture
def drawn():
    """Scores with many ties, truths, and three vectors of weights (the first all ones)."""
    generator = np.random.default_rng(0)
    truth = (generator.random(80) < 0.3).astype(float)
    probability = np.round(np.clip(0.3 * truth + generator.random(80) * 0.7, 0, 1), 1)
    weights = np.stack([np.ones(80), generator.integers(0, 4, 80), generator.integers(0, 2, 80)]).astype(float)
    return probability, truth, weights


def test_auroc_and_auprc_equal_sklearn_under_any_weights(drawn):
    probability, truth, weights = drawn
    areas = [roc_auc_score(truth, probability, sample_weight=w) for w in weights]
    precisions = [average_precision_score(truth, probability, sample_weight=w) for w in weights]
    np.testing.assert_allclose(metrics.auroc(*drawn), areas)
    np.testing.assert_allclose(metrics.average_precision(*drawn), precisions)


def test_sensitivity_at_specificity_equals_the_roc_curve(drawn):
    probability, truth, weights = drawn
    for specificity in (0.5, 0.8, 0.9, 1.0):
        expected = []
        for w in weights:
            false_rate, true_rate, _ = roc_curve(truth, probability, sample_weight=w, drop_intermediate=False)
            expected.append(true_rate[false_rate <= 1 - specificity + 1e-9].max())
        np.testing.assert_allclose(metrics.sensitivity_at_specificity(*drawn, specificity), expected)


def test_brier_equals_sklearn(drawn):
    probability, truth, weights = drawn
    np.testing.assert_allclose(
        metrics.brier(*drawn), [brier_score_loss(truth, probability, sample_weight=w) for w in weights]
    )


def test_calibration_error_by_hand():
    probability = np.array([0.05, 0.08, 0.95, 0.95])
    truth = np.array([0.0, 1.0, 1.0, 0.0])
    # bin 1: mean probability 0.065, rate 1/2; bin 10: 0.95, rate 1/2; each holds half of the images
    expected = 0.5 * abs(0.065 - 0.5) + 0.5 * abs(0.95 - 0.5)
    assert metrics.calibration_error(probability, truth, np.ones((1, 4)))[0] == pytest.approx(expected)
    doubled = metrics.calibration_error(probability, truth, np.array([[0.0, 0.0, 2.0, 0.0]]))
    assert doubled[0] == pytest.approx(0.05)


def test_absent_classes_and_no_images_are_nan():
    for metric in (metrics.auroc, metrics.METRICS["sensitivity_at_specificity_0.9"]):
        assert np.isnan(metric(np.array([0.2, 0.8]), np.array([1.0, 1.0]), np.ones((1, 2)))).all()
    for metric in metrics.METRICS.values():
        assert np.isnan(metric(np.zeros(0), np.zeros(0), np.ones((3, 0)))).all()
        assert np.isnan(metric(np.array([0.2, 0.8]), np.array([1.0, 0.0]), np.zeros((1, 2)))).all()


def test_macro_is_the_mean_of_the_findings_that_have_a_value():
    table = pd.DataFrame(
        {
            "image_id": list("abcd"),
            "A_prob": [0.1, 0.9, 0.4, 0.6],
            "B_prob": [0.9, 0.1, 0.4, 0.6],
            "C_prob": [0.5] * 4,
            "A_true": [0, 1, 0, 1],
            "B_true": [0, 1, np.nan, np.nan],
            "C_true": [0, 0, 0, 0],
        }
    )
    values = metrics.metric_columns(table, metrics.auroc)(np.ones((1, 4)))[0]
    np.testing.assert_array_equal(values, [1.0, 0.0, np.nan, 0.5])
