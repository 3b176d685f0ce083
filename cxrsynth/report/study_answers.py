"""The study's headline: what a reader wants to know within a minute."""

from typing import Any

from cxrsynth.evaluation.memorisation import MEMORISED, NEARER, TOLERATED
from cxrsynth.report.answers import Answer, interval, listing, number, percent, signed

WORDS = ("helped", "did not help", "cannot tell")


def study_answers(figures: dict[str, Any]) -> list[Answer]:
    """Question, figure and sentence; the verdict first.

    Args:
        figures: What `cxrsynth.study.results.collect` returned.
    """
    return [_helped(figures), _data(figures), _sure(figures), _worse(figures), _copied(figures), _alike(figures)]


def gain(spread: dict[str, Any], digits: int = 3) -> str:
    """A difference with its interval."""
    return f"{signed(spread['estimate'], digits)} ({interval(spread['low'], spread['high'], digits)})"


def mean_area(figures: dict[str, Any], arm: str) -> float | None:
    """Mean AUROC of an arm over findings and trainings."""
    return figures["arms"][arm]["metrics"]["auroc"][-1]["estimate"]


def _helped(figures: dict[str, Any]) -> Answer:
    *rows, mean = figures["verdicts"]
    control = figures["strongest_control"]
    sentence = (
        f"Mean AUROC on real test images: {number(mean_area(figures, 'real'), 3)} with real images only, "
        f"{number(mean_area(figures, control), 3)} with the strongest control ({figures['arms'][control]['title']}), "
        f"{number(mean_area(figures, figures['primary']), 3)} with {figures['arms'][figures['primary']]['title']}. "
        f"Gain over real only {gain(mean['over_real'])}, over the control {gain(mean['over_control'])}."
    )
    for word in WORDS:
        if names := [row["finding"] for row in rows if row["verdict"] == word]:
            sentence += f" {word.capitalize()}: {listing(names)}."
    if figures["verdict"] == "memorised":
        sentence = f"Images are copies of training images, so a gain would prove nothing. {sentence}"
    return Answer("Did the synthetic images help a classifier?", figures["verdict"], sentence)


def _data(figures: dict[str, Any]) -> Answer:
    data = figures["data"]
    train = data["splits"][0]
    made = data["synthetic"][0]["images"] if data["synthetic"] else 0
    kind = "a simulated archive" if data["simulated"] else f"the archive “{data['archive']}”"
    counts = [f"{name} {count}" for name, count in train["counts"].items()]
    sentence = (
        f"From {kind}: {train['images']} real training images of {train['patients']} patients "
        f"({', '.join(counts)}), {made} synthetic ones. Judged on {data['judged_images']} real images of "
        f"{data['judged_patients']} other patients."
    )
    return Answer("Which data?", f"{train['images']} real and {made} synthetic images", sentence)


def _sure(figures: dict[str, Any]) -> Answer:
    mean = figures["verdicts"][-1]
    trainings = figures["arms"][figures["primary"]]["trainings"]
    least = figures["power"]
    detectable = [row["detectable"] for row in least if row["detectable"] is not None]
    sentence = (
        f"The intervals hold {figures['data']['judged_patients']} patients and {trainings} "
        f"training{'s' if trainings != 1 else ''} of each arm. "
    )
    if detectable:
        sentence += (
            f"For single findings, differences below {number(min(detectable), 2)} to {number(max(detectable), 2)} "
            "of AUROC would not have been seen. "
        )
    area = figures["arms"]["real"]["metrics"]["auroc"][-1]
    if area["low"] is not None and area["low"] <= 0.5:
        sentence += (
            f"Trained on real images alone the classifier is not shown to be better than chance "
            f"({interval(area['low'], area['high'], 3)}): train it longer, or on more images, to judge by it. "
        )
    sentence += "Accuracy is no measure here: calling every finding absent scores " + percent(
        figures["arms"]["real"]["accuracy"]["all_absent_accuracy"], 1
    )
    wide = mean["over_real"]["high"], mean["over_real"]["low"]
    half = None if None in wide else (wide[0] - wide[1]) / 2
    return Answer("How sure is that?", "no interval" if half is None else f"± {number(half, 3)}", sentence + ".")


def _worse(figures: dict[str, Any]) -> Answer:
    question = "For whom is it worse?"
    rows = [row for row in figures["fairness"][figures["primary"]][1:] if row["auroc"]["estimate"] is not None]
    if not rows:
        return Answer(question, "not known", "The archive says nothing of sex, age, view or site, or groups are small.")
    row = min(rows, key=lambda r: r["auroc"]["estimate"])
    before = {r["group"]: r for r in figures["fairness"]["real"]}[row["group"]]
    missed = max(rows, key=lambda r: r["underdiagnosis"]["estimate"] or 0)
    sentence = (
        f"Mean AUROC {number(row['auroc']['estimate'])} ({interval(row['auroc']['low'], row['auroc']['high'])}) among "
        f"{row['images']} images; {number(before['auroc']['estimate'])} without synthetic images. Ill images in which "
        f"nothing was found: most often in {missed['group']} ({percent(missed['underdiagnosis']['estimate'])})."
    )
    return Answer(question, row["group"], sentence)


def _copied(figures: dict[str, Any]) -> Answer:
    question, found = "Are they copies of training images?", figures["memorisation"]
    if not found:
        return Answer(question, "not run", "No image could be compared.")
    words = {row["word"] for row in found.values()}
    word = "yes" if MEMORISED in words else NEARER if NEARER in words else "no sign of it"
    rows = {kind: row for kind, row in found.items() if row["share"] is not None}
    parts = [
        f"{percent(row['share'])} of {row['images']} {kind} ({interval(row['low'], row['high'], shares=True)})"
        for kind, row in rows.items()
    ]
    chance = max((row["by_chance"] for row in rows.values()), default=None)
    sentence = (
        f"Nearer to one training image than 95 % of held-out images are: {'; '.join(parts)}. By chance it is 5 % on "
        f"average and, with these held-out images, up to {percent(chance)}: nearer than by chance is said where the "
        f"interval lies above that, copying where it lies above {percent(TOLERATED)} too. The source's own patient is "
        "left out: an edit keeps its anatomy by design."
    )
    return Answer(question, word, sentence)


def _alike(figures: dict[str, Any]) -> Answer:
    question, traces = "Can one tell them from real images?", figures["edits"]
    if not traces or not traces["detector"]:
        return Answer(question, "not run", "These images came without source and region.")
    found = traces["detector"]
    sentence = (
        f"AUROC of a linear detector of edited images ({interval(found['low'], found['high'])}); 0.50 would be chance. "
        f"The gradient across the region's border is {number(traces['seam'])} times the source's."
    )
    if traces["unchanged"]:
        sentence += f" {traces['unchanged']} of {traces['images']} images equal their source."
    return Answer(question, number(found["estimate"]), sentence)
