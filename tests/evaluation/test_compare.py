import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxrsynth.errors import UserError
from cxrsynth.evaluation.compare import compare, verdict


def predictions(seed: int, signal: tuple[float, float], images: int = 300) -> pd.DataFrame:
    """Two findings whose scores carry the given signal; the truth does not depend on the seed."""
    truth = (np.random.default_rng(0).random((images, 2)) < 0.3).astype(float)
    noise = np.random.default_rng(seed).normal(size=(images, 2))
    probability = 1 / (1 + np.exp(-(noise + np.array(signal) * truth)))
    frame = {"image_id": [f"i{n}" for n in range(images)], "patient_id": [f"p{n // 2}" for n in range(images)]}
    frame["split"] = ["test"] * images
    for index, name in enumerate(("A", "B")):
        frame[f"{name}_prob"], frame[f"{name}_true"] = probability[:, index], truth[:, index]
    return pd.DataFrame(frame)


def test_gain_is_found_and_estimates_equal_sklearn():
    real, synthetic = predictions(1, (0.5, 1.0)), predictions(2, (2.5, 1.0))
    table = compare(real, synthetic.sample(frac=1, random_state=0)).set_index("finding")
    for name in ("A", "B"):
        assert table.at[name, "real"] == pytest.approx(roc_auc_score(real[f"{name}_true"], real[f"{name}_prob"]))
    assert table.at["A", "verdict"] == "helped"
    assert table.at["A", "difference_low"] > 0.1
    assert table.at["B", "difference_low"] < 0 < table.at["B", "difference_high"]
    assert table.at["macro", "difference"] == pytest.approx(table["difference"][["A", "B"]].mean())
    assert table.at["A", "present"] == real["A_true"].sum()
    assert compare(synthetic, real).set_index("finding").at["A", "verdict"] == "did not help"


def test_pairing_makes_the_difference_of_equal_models_zero():
    real = predictions(1, (1.0, 1.0))
    table = compare(real, real)
    assert (table[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    assert (table["real_high"] - table["real_low"] > 0.03).all()
    assert set(table["verdict"]) == {"did not help"}


def test_lower_brier_helps():
    table = compare(predictions(1, (0.0, 0.0)), predictions(1, (4.0, 4.0)), metric="brier")
    assert (table["difference_high"] < 0).all()
    assert set(table["verdict"]) == {"helped"}


def test_verdicts():
    assert verdict(0.001, 0.2) == "helped"
    assert verdict(-0.2, -0.1) == "did not help"
    assert verdict(-0.2, 0.005) == "did not help"
    assert verdict(-0.2, 0.1) == "cannot tell"
    assert verdict(float("nan"), float("nan")) == "cannot tell"


def test_tables_that_do_not_match_are_refused():
    real = predictions(1, (1.0, 1.0))
    with pytest.raises(UserError, match="different images"):
        compare(real, real.iloc[1:])
    with pytest.raises(UserError, match="different findings"):
        compare(real, real.rename(columns={"B_prob": "D_prob", "B_true": "D_true"}))
    with pytest.raises(UserError, match="truth of B"):
        compare(real, real.assign(B_true=1 - real["B_true"]))
    with pytest.raises(UserError, match="auroc, auprc"):
        compare(real, real, metric="accuracy")
