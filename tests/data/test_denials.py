import numpy as np
import pytest

from cxrsynth.data.denials import read_findings, without_denials
from cxrsynth.data.labels import LABEL_SPACES
from cxrsynth.data.sentences import write_sentence, write_sentences

NAMES = ("Effusion", "Pneumothorax", "Nodule", "Cardiomegaly")
E, P, N, C = NAMES


def denied(text: str, names: tuple[str, ...] = NAMES) -> list[str]:
    return [name for name, present in read_findings(text, names).items() if not present]


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("No effusion.", [E]),
        ("no pleural effusions", [E]),
        ("Without evidence of an effusion or enlarged heart", [E, C]),
        ("No effusion, pneumothorax or nodule is seen.", [E, P, N]),
        ("No effusion, nodules, or pneumothoraces.", [E, P, N]),
        ("Negative for pneumothorax and lung nodule.", [P, N]),
        ("There is neither effusion nor pneumothorax.", [E, P]),
        ("The lungs are free of effusion; absence of pneumothorax.", [E, P]),
        ("Effusion and pneumothorax are not seen.", [E, P]),
        ("Effusion is seen, pneumothorax is not seen.", [P]),
        ("Effusion is no longer visible.", [E]),
        ("A large effusion without pneumothorax.", [P]),
        ("No effusion, but cardiomegaly.", [E]),
        ("No effusion, cardiomegaly is seen.", [E]),
        ("No effusion and large nodule.", [E]),
        ("No pneumothorax\nCardiomegaly", [P]),
        ("No effusion on the left. Small effusion on the right.", []),
        ("No change in the effusion, and no new nodule.", []),
        ("Pneumothorax cannot be excluded.", []),
        ("No pericardial effusion.", []),
        ("No acute cardiopulmonary process.", [*NAMES]),
        ("Cardiomegaly. Otherwise normal chest.", [E, P, N]),
        ("Large effusion on the left.", []),
        ("The nose is broken.", []),
        ("", []),
    ],
)
def test_denials_and_their_scope(text, absent):
    assert denied(text) == denied(text.upper()) == absent


@pytest.mark.parametrize("names", LABEL_SPACES.values(), ids=list(LABEL_SPACES))
def test_every_sentence_that_training_writes_is_understood(names):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for name in names:
            assert read_findings(write_sentence(name, False, rng), names) == {name: False}
            assert read_findings(write_sentence(name, True, rng), names) == {name: True}
        present, absent = names[:2], names[2:]
        text = write_sentences(present, absent, rng, "PA", "F", 50.0)
        read = read_findings(text, names)
        assert all(read[name] for name in present), text
        assert not any(read.get(name) for name in absent), text


def test_names_inside_longer_names_are_not_taken():
    names = ("Mass", "Nodule/Mass", "Pleural_Thickening", "Lung opacity")
    assert denied("No nodule or mass.", names) == ["Nodule/Mass"]
    assert denied("No lung mass, no pleural thickening, no opacities.", names) == [
        "Mass",
        "Pleural_Thickening",
        "Lung opacity",
    ]


def test_sentences_that_only_deny_are_taken_out():
    assert without_denials("Film of a woman. No effusion. A nodule, no pneumothorax.\nThe chest is normal", NAMES) == (
        "Film of a woman. A nodule, no pneumothorax."
    )
    assert without_denials("No effusion; neither nodule nor pneumothorax!", NAMES) == ""
