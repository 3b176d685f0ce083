"""Report sentences for archives without reports: labels, view, sex and age in varied words, negations among them."""

from collections.abc import Sequence

import numpy as np

from cxrsynth.data.labels import SYNONYMS, find

PRESENT = (
    "{}.",
    "There is {}.",
    "{} is seen.",
    "{} is present.",
    "Findings are consistent with {}.",
    "Evidence of {}.",
    "The film shows {}.",
    "Impression: {}.",
)
ABSENT = (
    "No {}.",
    "There is no {}.",
    "No evidence of {}.",
    "{} is absent.",
    "{} is not seen.",
    "No sign of {}.",
    "Negative for {}.",
    "Without {}.",
)
ABSENT_PAIR = ("No {} or {}.", "There is neither {} nor {}.", "Negative for {} and {}.")
NORMAL = ("No acute cardiopulmonary process.", "Normal chest radiograph.", "No acute disease.", "The chest is normal.")
WHO = {"F": ("woman", "female patient", "lady"), "M": ("man", "male patient", "gentleman")}
WORDS_OF_VIEW = {
    "PA": ("PA", "Posteroanterior", "Frontal PA", "Upright PA"),
    "AP": ("AP", "Anteroposterior", "Portable AP", "Supine AP"),
}
MOST_ABSENT = 4  # a report does not list everything that is not there


def write_sentences(
    present: Sequence[str],
    absent: Sequence[str],
    rng: np.random.Generator,
    view: str = "",
    sex: str = "",
    age: float = float("nan"),
) -> str:
    """A short report that says nothing but what is given, and not always all of that.

    Args:
        present: Findings that the image shows; each gets a sentence.
        absent: Findings that it certainly lacks; some get a negation. With none present and none unknown the image may
            also be called normal, so leave out findings that are unknown.
        rng: Chooses words and order; the same state gives the same text.
        view: "PA", "AP", another name that is used as it is, or blank.
        sex: "F", "M" or blank.
        age: Years, NaN = unknown.

    Returns:
        The sentences; blank where there is nothing to say.
    """
    sentences = [_sentence(_choose(PRESENT, rng), [name], rng) for name in present]
    negated = [name for name in rng.permutation(list(absent)).tolist() if rng.random() < 0.5][:MOST_ABSENT]
    if len(negated) >= 2 and rng.random() < 0.5:
        sentences.append(_sentence(_choose(ABSENT_PAIR, rng), negated[:2], rng))
        negated = negated[2:]
    sentences += [_sentence(_choose(ABSENT, rng), [name], rng) for name in negated]
    if absent and not present and (not sentences or rng.random() < 0.3):
        sentences.append(_choose(NORMAL, rng))
    order = rng.permutation(len(sentences))
    about = _patient(view, sex, age, rng)
    return " ".join([*([about] if about else []), *(sentences[k] for k in order)])


def write_sentence(finding: str, present: bool, rng: np.random.Generator) -> str:
    """One sentence that asserts a finding, or denies it."""
    return _sentence(_choose(PRESENT if present else ABSENT, rng), [finding], rng)


def _patient(view: str, sex: str, age: float, rng: np.random.Generator) -> str:
    """A sentence about who was imaged and how, with some of what is known left out."""
    said = rng.random(3) < 0.75
    film = f"{_choose(WORDS_OF_VIEW.get(view, (view,)), rng)} chest radiograph" if view and said[0] else "Chest film"
    who = _choose(WHO[sex], rng) if sex in WHO and said[1] else ""
    years = f"{age:.0f}-year-old" if age == age and said[2] else ""
    if not who and not years:
        return f"{film}." if film != "Chest film" else ""
    return f"{film} of a {years} {who or 'patient'}.".replace("  ", " ")


def _sentence(template: str, findings: Sequence[str], rng: np.random.Generator) -> str:
    text = template.format(*(_phrase(name, rng) for name in findings))
    return text[0].upper() + text[1:]


def _phrase(name: str, rng: np.random.Generator) -> str:
    """A finding as a report writes it: one of its synonyms, in lower case unless it is an abbreviation."""
    names = [name, *(other for row in SYNONYMS if find(name, row) for other in row)]
    chosen = _choose(names, rng).replace("_", " ").replace("/", " or ")
    return chosen if chosen.isupper() else chosen.lower()


def _choose(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
