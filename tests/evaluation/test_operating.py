import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import f1_score

from cxrsynth.evaluation.operating import DECISIONS, decided, f1_thresholds, rescaled, temperature
from cxrsynth.evaluation.power import auroc_error, detectable_difference
from cxrsynth.evaluation.trivial import accuracy_beside_trivial, without_looking


def predictions(seed: int = 0, sharpness: float = 1.0, images: int = 4000) -> pd.DataFrame:
    """Calibrated probabilities of two findings, their logits then multiplied by the sharpness; some truths unknown."""
    generator = np.random.default_rng(seed)
    probability = generator.beta(1, 3, (images, 2))
    truth = (generator.random((images, 2)) < probability).astype(float)
    truth[::10, 1] = np.nan
    sharp = expit(sharpness * logit(probability))
    return pd.DataFrame(
        {"image_id": np.arange(images), "patient_id": np.arange(images), "A_prob": sharp[:, 0], "A_true": truth[:, 0]}
        | {"B_prob": sharp[:, 1], "B_true": truth[:, 1]}
    )


def test_the_temperature_undoes_overconfidence():
    table = predictions(sharpness=2.5)
    found = temperature(table)
    assert found == pytest.approx(2.5, rel=0.06)
    calm = rescaled(table, found)
    np.testing.assert_allclose(calm["A_prob"], predictions()["A_prob"], atol=0.03)
    assert calm["A_prob"].corr(table["A_prob"], method="spearman") > 0.9999


def test_thresholds_have_the_highest_f1_of_all():
    table = predictions(images=60)
    thresholds = f1_thresholds(table)
    for name in ("A", "B"):
        rows = table.dropna(subset=[f"{name}_true"])
        scores = [f1_score(rows[f"{name}_true"], rows[f"{name}_prob"] >= cut) for cut in rows[f"{name}_prob"]]
        assert f1_score(rows[f"{name}_true"], rows[f"{name}_prob"] >= thresholds[name]) == pytest.approx(max(scores))
    assert f1_thresholds(table.assign(A_true=0.0))["A"] == 0.5


def test_rates_of_decisions_under_weights():
    truth = np.array([1, 1, 1, 0, 0, 0.0])
    decision = decided(pd.DataFrame({"A_prob": [0.9, 0.4, 0.5, 0.6, 0.1, 0.2], "A_true": truth}), {"A": 0.5})
    weights = np.array([[1.0] * 6, [0, 2, 1, 0, 0, 3]])
    values = {name: metric(decision["A_prob"].to_numpy(), truth, weights) for name, metric in DECISIONS.items()}
    np.testing.assert_allclose(values["fnr"], [1 / 3, 2 / 3])
    np.testing.assert_allclose(values["fpr"], [1 / 3, 0])
    np.testing.assert_allclose(values["f1"], [2 / 3, 2 * 1 / (1 + 3)])


def test_all_absent_on_the_papers_table():
    """The rows of VinBigData's train.csv, which the paper's Table A1 counts."""
    counts = [7162, 279, 960, 5427, 556, 1000, 1247, 2483, 2580, 2203, 2476, 4842, 226, 4655]
    rows = sum(counts) + 31818
    assert rows == 67914
    fourteen = {str(number): count / rows for number, count in enumerate(counts)}
    assert without_looking(fourteen)["all_absent_accuracy"] == pytest.approx(0.962, abs=5e-4)
    fifteen = {**fourteen, "No Finding": 31818 / rows}
    assert without_looking(fifteen)["all_absent_accuracy"] == pytest.approx(0.933, abs=5e-4)


def test_accuracy_stands_beside_rules_that_see_nothing():
    table = predictions()
    table["A_prob"] = table["B_prob"] = 0.01
    found = accuracy_beside_trivial(table)
    assert found["accuracy"] == found["all_absent_accuracy"]
    table["A_prob"], table["B_prob"] = table["A_true"].mean(), table["B_true"].mean()
    found = accuracy_beside_trivial(table)
    assert found["loss"] == pytest.approx(found["prior_loss"])


def test_error_of_an_area_and_the_difference_it_can_show():
    # by simulation: binormal scores
    generator = np.random.default_rng(0)
    cases, controls = generator.normal(1, 1, (4000, 20, 1)), generator.normal(0, 1, (4000, 1, 100))
    areas = (cases > controls).mean((1, 2))
    assert auroc_error(float(areas.mean()), 20, 100) == pytest.approx(areas.std(), rel=0.12)
    assert np.isnan(auroc_error(0.8, 0, 100))
    error = 0.02
    shown = generator.normal(detectable_difference(error), error, 100_000) > 1.96 * error
    assert shown.mean() == pytest.approx(0.8, abs=0.01)
