import numpy as np
import pytest

from cxrsynth.evaluation.readers import agreement, reader_scores, share

KEY = {
    "1": {"kind": "real", "shows": True, "box": [0.1, 0.1, 0.4, 0.5]},
    "2": {"kind": "synthetic", "shows": False, "box": None},
    "3": {"kind": "synthetic", "shows": True, "box": [0.5, 0.5, 0.9, 0.9]},
    "4": {"kind": "real", "shows": False, "box": None},
}


def test_a_reader_is_scored_question_by_question():
    answers = {
        "1": {"kind": "real", "shows": True, "point": [0.2, 0.3]},
        "2": {"kind": "real", "shows": False, "point": [0.5, 0.5]},
        "3": {"kind": "synthetic", "shows": None, "point": [0.95, 0.6]},
        "9": {"kind": "real", "shows": True, "point": None},
    }
    scores = reader_scores(KEY, answers)
    assert (scores["told_apart"]["right"], scores["told_apart"]["of"]) == (2, 3)
    assert (scores["synthetic_found"]["right"], scores["synthetic_found"]["of"]) == (1, 2)
    assert (scores["real_found"]["right"], scores["real_found"]["of"]) == (1, 1)
    assert (scores["shows"]["right"], scores["shows"]["of"]) == (2, 2)
    assert (scores["place"]["right"], scores["place"]["of"]) == (1, 2)


def test_exact_limits_and_nothing_answered():
    # Clopper-Pearson: 0 of n has the upper limit 1 - (0.025)^(1/n)
    assert share(0, 10)["high"] == pytest.approx(1 - 0.025 ** (1 / 10))
    assert np.isnan(share(0, 0)["share"])


def test_agreement_is_cohens_kappa():
    first = {str(n): {"kind": "real" if n < 6 else "synthetic"} for n in range(10)}
    second = {str(n): {"kind": "real" if n < 5 else "synthetic"} for n in range(10)} | {"5": {"kind": None}}
    third = {str(n): {"kind": "real" if n % 2 else "synthetic"} for n in range(10)}
    rows = {tuple(row["readers"]): row for row in agreement({"a": first, "b": second, "c": third}, "kind")}
    assert (rows["a", "b"]["items"], rows["a", "b"]["kappa"]) == (9, 1.0)
    # a and c: 3 + 2 of 10 agree, by chance 0.6 * 0.5 + 0.4 * 0.5
    assert rows["a", "c"]["kappa"] == pytest.approx((0.5 - 0.5) / (1 - 0.5))
