"""Label spaces of the published archives, and one spelling for each finding."""

import difflib
from collections.abc import Sequence

from cxrsynth.errors import UserError

NIH_14 = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
VINDR_14 = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
# CheXpert names fourteen observations. The fourteenth, "No Finding", is the absence of these.
CHEXPERT_14 = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
LABEL_SPACES: dict[str, tuple[str, ...]] = {"nih": NIH_14, "vindr": VINDR_14, "chexpert": CHEXPERT_14}

NO_FINDING = frozenset({"No Finding", "Normal"})

# Names of one row mean the same. "Nodule/Mass" is not "Mass": one finding of VinDr is two of NIH.
SYNONYMS = (
    ("Effusion", "Pleural effusion"),
    ("Infiltration", "Infiltrate", "Infiltrates"),
    ("Fibrosis", "Pulmonary fibrosis", "Lung fibrosis"),
    ("Edema", "Oedema", "Pulmonary edema", "Lung edema"),
    ("Cardiomegaly", "Enlarged heart"),
    ("Nodule/Mass", "Nodule or mass", "Lung lesion"),
    ("Lung opacity", "Airspace opacity", "Opacity"),
    ("ILD", "Interstitial lung disease"),
    ("Hernia", "Hiatal hernia", "Hiatus hernia"),
    ("Mass", "Lung mass", "Pulmonary mass"),
    ("Nodule", "Lung nodule", "Pulmonary nodule"),
    ("Tuberculosis", "TB"),
    ("Support devices", "Support device"),
)


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum() or letter == "/")


_GROUP = {_key(name): number for number, row in enumerate(SYNONYMS) for name in row}
_NO_FINDING_KEYS = frozenset(map(_key, NO_FINDING))


def is_no_finding(name: str) -> bool:
    """Whether a label says that nothing was found ("No Finding" or "Normal", in any spelling)."""
    return _key(name) in _NO_FINDING_KEYS


def is_device(name: str) -> bool:
    """Whether a label says that a device is seen ("Support Devices", in any spelling), which is no disease."""
    return _GROUP.get(_key(name)) == _GROUP[_key("Support devices")]


def find(name: str, findings: Sequence[str]) -> str | None:
    """The member of `findings` that `name` means, or None. Case, blanks, `_` and `-` do not matter."""
    key = _key(name)
    group = _GROUP.get(key)
    for finding in findings:
        if _key(finding) == key:
            return finding
    if group is None:
        return None
    return next((finding for finding in findings if _GROUP.get(_key(finding)) == group), None)


def canonical(name: str, findings: Sequence[str]) -> str:
    """The spelling of `name` in `findings`, through synonyms if need be.

    Args:
        name: A finding as a user or another archive writes it.
        findings: The findings that exist.

    Returns:
        The member of `findings` that is meant.

    Raises:
        UserError: None is meant. The message names the nearest ones.
    """
    finding = find(name, findings)
    if finding is not None:
        return finding
    near = difflib.get_close_matches(_key(name), [_key(f) for f in findings], n=3, cutoff=0.6)
    meant = [f for key in near for f in findings if _key(f) == key]
    hint = f"did you mean {' or '.join(map(repr, meant))}?" if meant else f"choose from {', '.join(findings) or 'none'}"
    raise UserError(f"unknown finding {name!r}; {hint}")
