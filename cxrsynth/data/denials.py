"""What a text asserts and denies, by rules in the manner of NegEx (Chapman et al. 2001, doi 10.1006/jbin.2001.1029)."""

import re
from collections.abc import Iterator, Sequence

from cxrsynth.data.labels import SYNONYMS, find

_SAME = r"(?:interval |significant |definite )*(?:change|increase|decrease|worsening|improvement|progression)"
_BEFORE = re.compile(
    rf"\b(?:(?:no|without)(?! (?:longer|new|further|{_SAME})\b)|not (?:show|have|demonstrate|reveal)|"
    r"(?:absence|lack|free|clear) of|negative for|neither|nor)\b"
)
_BEHIND = re.compile(
    r"\b(?:absent|excluded|ruled out|resolved|(?:not|no longer) (?:be |been |clearly )*"
    r"(?:seen|present|identified|visible|visuali[sz]ed|demonstrated|evident|detected|found))\b"
)
_OPEN = re.compile(r"\b(?:not|cannot) (?:be |been |yet )*(?:absent|excluded|ruled out|resolved)\b")
_SAID = re.compile(r"\b(?:is|are|was|were|remains?|persists?|there|with|shows?|has|have)\b")
_NORMAL = re.compile(
    r"\bno (?:acute |other |active |significant )*(?:cardiopulmonary |thoracic |pulmonary )?"
    r"(?:process|disease|abnormality|abnormalities|findings?)\b|\bnormal (?:chest|film|radiograph|study|examination)\b|"
    r"\b(?:chest|film|radiograph|study|examination) is (?:normal|unremarkable)\b"
)
_SENTENCE = re.compile(r"[.;:!?\n]+|\b(?:but|however|although|though|except|aside from|apart from)\b")
_PIECE = re.compile(r",|(?=\b(?:and|or|nor|with|without)\b)")
_OWN = re.compile(r" ?(?:and )?(?:an?|there|with|mild|moderate|severe|small|large|increased|new|old)\b")
_NAME = re.compile(r"<(\d+)>")


def read_findings(text: str, findings: Sequence[str]) -> dict[str, bool]:
    """The findings that a text speaks of, in their order, and whether it says that they are there.

    Understood as denials are words before ("no A, B or C", "without A", "free of A", "negative for A", "neither A nor
    B"), words behind ("A is not seen", "A and B are absent"), and sentences that call the film normal, which deny
    whatever the text does not assert. Other ways to say it ("the heart is not enlarged", "clear lungs") are not.

    Args:
        text: Any; case does not matter.
        findings: The vocabulary; a finding is known by any of its synonyms, also in the plural.

    Returns:
        True for what is asserted anywhere, False for what is only denied.
    """
    marked = _OPEN.sub("remains", re.sub(r"[ \t_]+", " ", text.lower()))
    numbers = {name: number for number, finding in enumerate(findings) for name in _names(finding)}
    for name in sorted(numbers, key=len, reverse=True):  # a "lung mass" is no "mass" besides
        # an effusion by name, but of the heart
        marked = re.sub(rf"(?<!pericardial )\b{_plural(name)}\b", f"<{numbers[name]}>", marked)
    present = dict.fromkeys(range(len(findings)), False) if _NORMAL.search(marked) else {}
    for sentence in _SENTENCE.split(marked):
        for number, negative in _read(sentence):
            present[number] = present.get(number, False) or not negative
    return {finding: present[number] for number, finding in enumerate(findings) if number in present}


def without_denials(text: str, findings: Sequence[str]) -> str:
    """A text without the sentences that deny findings and assert none."""
    sentences = re.split(r"(?<=[.;!?\n])\s*", text)
    read = (read_findings(sentence, findings).values() for sentence in sentences)
    kept = [sentence for sentence, said in zip(sentences, read, strict=True) if any(said) or not said]
    return " ".join(kept).strip()


def _read(sentence: str) -> Iterator[tuple[int, bool]]:
    """The findings of a sentence by number, each with whether it is denied."""
    pieces = [piece for piece in _PIECE.split(sentence) if piece.strip()]
    negative, waiting = False, list[int]()  # waiting: named, and nothing was said of them yet
    for place, piece in enumerate(pieces):
        here = [int(number) for number in _NAME.findall(piece)]
        opened, said = _BEFORE.search(piece), _SAID.search(piece)
        if negative and not opened and not piece.startswith(("or ", "nor ")):
            listed = any(later.startswith("or ") for later in pieces[place + 1 :])
            negative = not (_OWN.match(piece) or (said and not listed))
        if opened:
            yield from ((number, False) for number in waiting)
            negative, waiting = True, []
        if negative:
            yield from ((number, True) for number in here)
            continue
        waiting += here
        behind = _BEHIND.search(piece)
        if behind or said:
            yield from ((number, bool(behind)) for number in waiting)
            waiting = []
    yield from ((number, False) for number in waiting)


def _names(finding: str) -> set[str]:
    names = [finding, *(other for row in SYNONYMS if find(finding, row) for other in row)]
    lower = {name.lower().replace("_", " ") for name in names}
    return lower | {name.replace("/", " or ") for name in lower}


def _plural(name: str) -> str:
    for ending, either in (("y", "(?:y|ies)"), ("x", "(?:x|ces)"), ("is", "(?:is|es)")):
        if name.endswith(ending):
            return re.escape(name.removesuffix(ending)) + either
    return re.escape(name) + "(?:e?s)?"
