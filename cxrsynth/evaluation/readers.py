"""What readers answered, against the key: accuracy, agreement and intervals."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

Key = Mapping[str, Mapping[str, Any]]
Answers = Mapping[str, Mapping[str, Any]]


def share(right: int, of: int) -> dict[str, float | int]:
    """A share with its exact 95 % interval (Clopper and Pearson 1934)."""
    if not of:
        return {"right": 0, "of": 0, "share": float("nan"), "low": float("nan"), "high": float("nan")}
    found = binomtest(right, of)
    limits = found.proportion_ci()
    return {"right": right, "of": of, "share": right / of, "low": limits.low, "high": limits.high}


def reader_scores(key: Key, answers: Answers) -> dict[str, Any]:
    """One reader against the key.

    Args:
        key: By item `kind` ("real" or "synthetic"), `shows` (whether the image shows the finding that is asked after)
            and `box` (`[x0, y0, x1, y1]` of the finding, shares of the image, or None).
        answers: By item any of `kind`, `shows` and `point` (`[x, y]`, shares of the image); None = not answered.

    Returns:
        Shares of right answers: `told_apart` (both kinds together; 0.5 is chance), `synthetic_found`, `real_found`,
        `shows` (does it show what the text says) and `place` (points within the box, where there is one).
    """
    given = {item: answer for item, answer in answers.items() if item in key}

    def count(question: str, kinds: Sequence[str] = ("real", "synthetic")) -> dict[str, float | int]:
        of = [i for i, answer in given.items() if answer.get(question) is not None and key[i]["kind"] in kinds]
        return share(sum(given[i][question] == key[i][question] for i in of), len(of))

    placed = [i for i, answer in given.items() if answer.get("point") is not None and key[i]["box"] is not None]
    hits = sum(_inside(given[i]["point"], key[i]["box"]) for i in placed)
    return {
        "told_apart": count("kind"),
        "synthetic_found": count("kind", ["synthetic"]),
        "real_found": count("kind", ["real"]),
        "shows": count("shows"),
        "place": share(hits, len(placed)),
    }


def agreement(readers: Mapping[str, Answers], question: str) -> list[dict[str, Any]]:
    """Cohen's kappa of each pair of readers on the items that both answered; None for fewer than two items."""
    rows: list[dict[str, Any]] = []
    for first, second in combinations(sorted(readers), 2):
        both = [
            (answer[question], readers[second][item][question])
            for item, answer in readers[first].items()
            if answer.get(question) is not None and readers[second].get(item, {}).get(question) is not None
        ]
        kappa = float(cohen_kappa_score(*zip(*both, strict=True))) if len(both) > 1 else None
        rows.append({"readers": [first, second], "items": len(both), "kappa": kappa})
    return rows


def _inside(point: Sequence[float], box: Sequence[float]) -> bool:
    return bool(box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3])
