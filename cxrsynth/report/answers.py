"""The headline: five questions a reader has, each answered in a figure and a plain sentence."""

from dataclasses import dataclass
from typing import Any

MINUS, ABSENT = "\N{MINUS SIGN}", "\N{EN DASH}"
JUDGES = {
    "oracle": "the oracle, which measures findings from pixels",
    "classifier": "a classifier that never saw a synthetic image",
}


@dataclass(frozen=True)
class Answer:
    """One question of the summary, its answer in a few words, and the sentence behind it."""

    question: str
    figure: str
    sentence: str


def answers(summary: dict[str, Any]) -> list[Answer]:
    """The headline of a report.

    Args:
        summary: What `cxrsynth.report.summary.summarise` returned.
    """
    return [_helped(summary), _made(summary), _exact(summary), _risen(summary), _localised(summary)]


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign, an en dash where there is none."""
    if value is None:
        return ABSENT
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)  # + 0.0 makes -0.0 plain 0


def signed(value: float | None, digits: int = 2) -> str:
    """A number with its sign."""
    return number(value, digits) if value is None or round(value, digits) <= 0 else f"+{number(value, digits)}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return ABSENT if value is None else f"{number(100 * value, digits)} %"


def interval(low: float | None, high: float | None, digits: int = 2, shares: bool = False) -> str:
    """The limits of an interval in words, of shares as percentages."""
    if low is None or high is None:
        return "no interval"
    return f"{100 * low:.0f} to {percent(high)}" if shares else f"{number(low, digits)} to {number(high, digits)}"


def listing(names: list[str]) -> str:
    """Names joined as in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _made(summary: dict[str, Any]) -> Answer:
    question, images, refused = "What was made?", summary["images"], summary["refused"]
    if images is None:
        return Answer(question, "not run", "No images were made in this run.")
    findings = listing([f"{name} ({count})" for name, count in images["by_finding"].items()])
    sentence = f"Painted into images of {images['source_patients']} healthy patients: {findings}."
    if not images["made"]:
        sentence = "Nothing was painted."
    if chosen := summary["acceptance"]:
        total = chosen[-1]
        sentence += f" The selection accepted {total['accepted']} of {total['planned']}; a classifier gets these alone."
    elif refused and refused["count"]:
        sentence += f" {refused['count']} more were refused."
    return Answer(question, f"{images['made']} images", sentence)


def _exact(summary: dict[str, Any]) -> Answer:
    question, exactness = "Is everything outside the region untouched?", summary["exactness"]
    if not (exactness and exactness["images"]):
        return Answer(question, "not run", "The images or their sources are not here to be compared.")
    exact, images = exactness["exact"], exactness["images"]
    sentence = "Source, region and result were read again from their files and compared, value by value."
    if exact < images:
        sentence = f"{listing(sorted(exactness['offenders'])[:5])} did not pass; see “Exactness”."
    return Answer(question, f"{exact} of {images}", sentence)


def _risen(summary: dict[str, Any]) -> Answer:
    question, effects = "Does the asked finding appear?", summary["effects"]
    if not effects:
        return Answer(question, "not run", "No judge scored the images.")
    asked = [row for row in effects if row["finding"] == row["scored"]]
    parts, figures = [], []
    for scorer in sorted({row["scorer"] for row in asked}, key=lambda name: name != "oracle"):
        rows = [row for row in asked if row["scorer"] == scorer]
        rises = [row for row in rows if row["verdict"] == "rises"]
        others = [f"{row['finding']} ({row['verdict']})" for row in rows if row["verdict"] != "rises"]
        figures.append(f"for {len(rises)} of {len(rows)} findings")
        parts.append(
            f"By {JUDGES.get(scorer, scorer)}, it rises for {len(rises)} of {len(rows)} findings"
            + (f"; not shown for {listing(others)}." if others else ".")
        )
    return Answer(question, figures[0], " ".join(parts))


def _localised(summary: dict[str, Any]) -> Answer:
    question, rows = "Do the attention maps find the lesions?", summary["localisation"]
    if not rows:
        return Answer(question, "not run", "No lesion masks or boxes were there to compare with.")
    row = rows[-1]
    hit = row["pointing"]["attention"]
    sentence = (
        f"Share of {row['lesions']} lesions hit by the brightest point of the map (95 % interval "
        f"{interval(hit['low'], hit['high'], shares=True)}); a random point would hit {percent(row['chance'])}"
    )
    baseline = row["pointing"].get("average_map")
    sentence += f", the finding's average map {percent(baseline['estimate'])}." if baseline else "."
    return Answer(question, percent(hit["estimate"]), sentence)


def _helped(summary: dict[str, Any]) -> Answer:
    question, utility = "Did they help a classifier?", summary["utility"]
    if utility is None:
        return Answer(question, "not run", "The two classifiers were not both trained.")
    *rows, macro = utility["metrics"]["auroc"]
    limits = interval(macro["difference_low"], macro["difference_high"])
    sentence = (
        f"Mean AUROC on {utility['images']} real {utility['split']} images: {number(macro['real'])} trained on real "
        f"images, {number(macro['synthetic'])} on real and synthetic ones; "
        f"difference {signed(macro['difference'])} ({limits})."
    )
    for verdict in ("helped", "did not help", "cannot tell"):
        if names := [row["finding"] for row in rows if row["verdict"] == verdict]:
            sentence += f" {verdict.capitalize()}: {listing(names)}."
    return Answer(question, macro["verdict"], sentence)
