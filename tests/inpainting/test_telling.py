import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting.telling import Teller, corpus, findings_of, wish
from cxrsynth.inpainting.text import Vocabulary

NAN = torch.nan
NAMES = ("Effusion", "Nodule", "Cardiomegaly")
TARGET = torch.tensor([[1.0, 0, 1], [1, NAN, 0], [0, 0, 0], [0, NAN, 0], [0, 1, 0]])
FINDING = torch.tensor([0, 0, -1, -1, -1])
NOWHERE = torch.zeros(5, dtype=torch.bool)


def test_conditions_say_only_what_is_known_of_the_region():
    found = findings_of(TARGET, FINDING)
    wanted = torch.tensor([[1.0, 0, NAN], [1, NAN, 0], [0, 0, 0], [0, 0, 0], [0, NAN, 0]])
    torch.testing.assert_close(found, wanted, equal_nan=True)


def test_of_a_whole_image_everything_is_known_that_is_known():
    found = findings_of(TARGET, FINDING, ~NOWHERE)
    wanted = torch.tensor([[1.0, 0, 1], [1, NAN, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(found, wanted, equal_nan=True)


def batch(reports: list[str] | None = None) -> dict:
    return {
        "target": TARGET,
        "finding": FINDING,
        "image_id": list("abcde"),
        "view": ["PA", "AP", "LATERAL", "", "PA"],
        "sex": ["F", "M", "", "F", "X"],
        "age": torch.tensor([30.0, NAN, 50, 60, 70]),
        "text": reports or [""] * 5,
    }


def test_names_become_the_condition():
    condition = Teller(NAMES)(batch(), NOWHERE)
    assert condition.view.tolist() == [0, 1, -1, -1, 0]
    assert condition.sex.tolist() == [0, 1, -1, 0, -1]
    torch.testing.assert_close(condition.age, batch()["age"], equal_nan=True)
    assert not condition.known("text").any()


def test_a_batch_of_images_and_findings_alone_is_enough():
    vocabulary = Vocabulary.train(corpus([], NAMES, ("PA",)), 400)
    condition = Teller(NAMES, vocabulary=vocabulary)({"target": TARGET, "finding": FINDING}, NOWHERE)
    assert not condition.known("view").any()
    assert condition.known("text")[0]


def test_reports_are_used_where_they_are_true_of_the_region():
    reports = [f"report {name}" for name in "abcde"]
    teller = Teller(NAMES, written=0.0)
    # The first image has a finding elsewhere, the last one a finding that nobody drew: the report may be wrong there.
    local = teller.texts(batch(reports), findings_of(TARGET, FINDING), NOWHERE)
    assert local[1:4] == reports[1:4]
    assert local[0] != reports[0]
    assert local[4] != reports[4]
    assert teller.texts(batch(reports), findings_of(TARGET, FINDING, ~NOWHERE), ~NOWHERE) == reports
    assert "report" not in " ".join(
        Teller(NAMES, written=1.0).texts(batch(reports), findings_of(TARGET, FINDING), NOWHERE)
    )


def test_sentences_differ_by_epoch_and_image_and_repeat():
    found = findings_of(TARGET, FINDING)
    teller = Teller(NAMES)
    first, again, later = (teller.texts(batch(), found, NOWHERE, epoch) for epoch in (0, 0, 1))
    assert first == again
    assert first != later
    reordered = {**batch(), "image_id": list("bacde")}
    assert teller.texts(reordered, found, NOWHERE, 0) != first


def test_the_corpus_holds_reports_and_negations():
    texts = list(corpus(["A report.", ""], NAMES, ("PA", "AP")))
    assert texts[0] == "A report."
    assert sum("no " in text.lower() for text in texts) > 300
    assert list(corpus([], NAMES, ("PA",))) == list(corpus([], NAMES, ("PA",)))


@pytest.fixture(scope="module")
def teller() -> Teller:
    return Teller(NAMES, vocabulary=Vocabulary.train(corpus([], NAMES, ("PA", "AP")), 400, limit=10))


EVERYTHING = ("text", "view", "sex", "age")


def test_wishes(teller):
    condition = wish(teller, EVERYTHING, 3, ["pleural effusion"], "Large effusion", "AP", "F", 61)
    assert condition.findings.tolist() == [[1, 0, 0]] * 3
    assert condition.view.tolist() == [1] * 3
    assert condition.sex.tolist() == [0] * 3
    assert condition.age.tolist() == [61] * 3
    assert torch.equal(condition.text[0], teller.vocabulary.ids(["Large effusion"])[0])
    assert wish(teller, (), 1, []).findings.tolist() == [[0, 0, 0]]
    assert wish(teller, (), 1, NAMES).findings.tolist() == [[1, 1, 1]]
    free = wish(teller, EVERYTHING, 2, text="clear lungs")
    assert not free.known("findings").any()
    assert not free.known("age").any()


def test_what_a_text_denies_is_absent_unless_findings_are_asked(teller):
    said = wish(teller, EVERYTHING, 2, text="A nodule, no effusion.")
    torch.testing.assert_close(said.findings, torch.tensor([[0.0, NAN, NAN]] * 2), equal_nan=True)
    for text in ("No effusion.", "Normal chest film."):  # nothing is asserted: healthy
        healthy = wish(teller, EVERYTHING, 1, text=text)
        assert healthy.findings.tolist() == [[0, 0, 0]]
        assert not healthy.known("text").any()
    assert wish(teller, EVERYTHING, 1, ["Effusion"], "No effusion.").findings.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize(
    ("fields", "asked", "words"),
    [
        ((), {"text": "an effusion"}, "trained without it; it knows findings"),
        (("text",), {"view": "PA"}, "it knows findings, text"),
        (EVERYTHING, {"view": "LATERAL"}, "knows PA, AP"),
        (EVERYTHING, {"sex": "f"}, "F or M"),
        (EVERYTHING, {"age": 300}, "0 to 120"),
        (EVERYTHING, {"findings": ["Herniation"]}, "Herniation"),
        (EVERYTHING, {"text": "the heart is not enlarged at all " * 9}, "reads 10"),
    ],
)
def test_bad_wishes_are_refused_in_one_sentence(teller, fields, asked, words):
    with pytest.raises(UserError, match=words) as error:
        wish(teller, fields, 1, **asked)
    assert "\n" not in str(error.value)
