import numpy as np
import pytest

from cxrsynth.data.sentences import write_sentences

NAN = float("nan")


def texts(count: int, *args, **options) -> list[str]:
    return [write_sentences(*args, np.random.default_rng(seed), **options) for seed in range(count)]


def test_the_same_seed_writes_the_same_and_others_vary():
    first, second = (texts(50, ["Effusion"], ["Nodule"], view="AP", sex="F", age=61.0) for _ in range(2))
    assert first == second
    assert len(set(first)) > 40


def test_what_is_present_is_always_said_and_never_negated():
    for text in texts(200, ["Cardiomegaly"], []):
        assert "cardiomegaly" in text.lower() or "enlarged heart" in text.lower()
        assert not any(word in text.lower() for word in ("no ", "not ", "without", "absent", "negative", "neither"))


def test_what_is_absent_appears_in_negations_only():
    negations = ("no ", "nor ", "neither", "absent", "not seen", "negative for", "without")
    said = 0
    for text in texts(200, [], ["Nodule", "Mass"]):
        for sentence in text.lower().split("."):
            if "nodule" in sentence or "mass" in sentence:
                said += 1
                assert any(word in f"{sentence} " for word in negations), sentence
    assert said > 100


def test_nothing_known_says_nothing():
    assert set(texts(30, [], [])) == {""}


def test_view_sex_and_age_are_said_truly():
    together = texts(300, [], [], view="AP", sex="M", age=47.0)
    assert any("47-year-old" in text and "man" in text and "AP" in text for text in together)
    assert not any(word in text for text in together for word in ("PA ", "woman", "female", "lady", "Posteroanterior"))
    assert any("47" not in text for text in together)
    assert set(texts(20, [], [], age=NAN)) == {""}


@pytest.mark.parametrize(("label", "words"), [("Pleural_Thickening", "pleural thickening"), ("ILD", "ILD")])
def test_labels_become_words(label, words):
    assert any(words in text for text in texts(40, [label], []))
    assert not any("_" in text for text in texts(40, [label], []))
