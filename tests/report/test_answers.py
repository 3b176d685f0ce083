import pytest

from cxrsynth.report.answers import ABSENT, MINUS, answers, interval, listing, number, percent, signed
from cxrsynth.report.page import Axis
from cxrsynth.report.summary import plain


def test_numbers_are_set_with_care():
    assert number(-0.123) == MINUS + "0.12"
    assert number(-0.001) == "0.00"
    assert number(None) == ABSENT
    assert [signed(0.051), signed(-0.051), signed(0.001)] == ["+0.05", MINUS + "0.05", "0.00"]
    assert interval(-0.1, 0.2) == MINUS + "0.10 to 0.20"
    assert interval(0.5, 0.625, shares=True) == "50 to 62 %"
    assert interval(None, None) == "no interval"
    assert percent(0.125, 1) == "12.5 %"
    assert [listing(list("a")), listing(list("ab")), listing(list("abc"))] == ["a", "a and b", "a, b and c"]


def test_plain_content_for_json():
    assert plain({"a": float("nan"), "b": (1, float("inf")), 3: [None, True]}) == {
        "a": None,
        "b": [1, None],
        "3": [None, True],
    }


def test_axis_maps_its_ends_inside_the_cell():
    axis = Axis([0.2, None, 0.8], [0.0])
    assert float(axis.at(0.0).rstrip("%")) == pytest.approx(100 * 0.048 / 0.896, abs=0.01)
    assert 0 < float(axis.at(0.2).rstrip("%")) < float(axis.at(0.8).rstrip("%")) < 100
    assert Axis([], [0.0]).at(0.0) == "50.00%"


def test_answers_of_a_run_with_nothing_in_it():
    nothing = dict.fromkeys(("images", "refused", "exactness", "effects", "utility", "localisation"))
    assert {answer.figure for answer in answers(nothing)} == {"not run"}


def test_findings_that_do_not_rise_are_named():
    rows = [
        {"scorer": "oracle", "finding": name, "scored": name, "verdict": verdict}
        for name, verdict in (("A", "rises"), ("B", "falls"), ("C", "cannot tell"))
    ]
    content = dict.fromkeys(("images", "refused", "exactness", "utility", "localisation")) | {"effects": rows}
    answer = next(a for a in answers(content) if a.question == "Does the asked finding appear?")
    assert answer.figure == "for 1 of 3 findings"
    assert "B (falls) and C (cannot tell)" in answer.sentence
