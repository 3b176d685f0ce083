import pytest

from cxrsynth.data.labels import CHEXPERT_14, LABEL_SPACES, NIH_14, VINDR_14, canonical, find, is_no_finding
from cxrsynth.errors import UserError


def test_label_spaces_have_no_name_twice_and_no_absence():
    assert [len(space) for space in (NIH_14, VINDR_14, CHEXPERT_14)] == [14, 14, 13]
    for space in LABEL_SPACES.values():
        assert len({find(name, space) for name in space}) == len(space)
        assert not any(map(is_no_finding, space))


@pytest.mark.parametrize(
    ("name", "space", "expected"),
    [
        ("Infiltrate", NIH_14, "Infiltration"),
        ("pleural_effusion", NIH_14, "Effusion"),
        ("Pleural thickening", NIH_14, "Pleural_Thickening"),
        ("effusion", CHEXPERT_14, "Pleural Effusion"),
        ("Fibrosis", VINDR_14, "Pulmonary fibrosis"),
        ("Nodule or mass", VINDR_14, "Nodule/Mass"),
    ],
)
def test_synonyms(name, space, expected):
    assert canonical(name, space) == expected


def test_a_joint_finding_is_not_one_of_its_parts():
    assert find("Mass", VINDR_14) is None
    assert find("Nodule/Mass", NIH_14) is None


def test_unknown_finding_names_the_near_ones():
    with pytest.raises(UserError, match=r"unknown finding 'Pneumothorx'; did you mean 'Pneumothorax'"):
        canonical("Pneumothorx", NIH_14)
    with pytest.raises(UserError, match="choose from Atelectasis, Cardiomegaly"):
        canonical("xyz", NIH_14)


@pytest.mark.parametrize("name", ["No Finding", "No finding", "normal", "NO_FINDING"])
def test_no_finding(name):
    assert is_no_finding(name)
