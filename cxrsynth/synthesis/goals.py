"""Which finding the next image shows."""

from collections.abc import Mapping, Sequence

from cxrsynth.errors import UserError

RULES = ("level", "count", "until", "prevalence")
OTHERS = "*"  # in targets: every finding that is not named


class Goals:
    """Chooses findings one after another until every target is met.

    Args:
        findings: Findings to make.
        rule: "level": each next image goes to the finding with the fewest positives, `count` images in all. "count":
            `targets` images of each finding. "until": as many as bring its positives, real and planned together, to
            `targets`. "prevalence": to that share of all training images.
        targets: Finding to number, `*` for those that are not named; without it the others are left out.
        count: Number of images, for "level".
        positives: Real positives of each finding, which `add` goes on counting.
        images: Real training images.

    Raises:
        UserError: An unknown rule or finding, or targets that the rule cannot use.
    """

    def __init__(
        self,
        findings: Sequence[str],
        rule: str,
        targets: Mapping[str, float] | None,
        count: int | None,
        positives: Mapping[str, int],
        images: int,
    ) -> None:
        if rule not in RULES:
            raise UserError(f"rule is {rule!r}; choose one of {', '.join(RULES)}")
        if (rule == "level") != (targets is None) or (rule == "level") != (count is not None):
            raise UserError(
                f"rule {rule!r} needs {'a count and no targets' if rule == 'level' else 'targets, no count'}"
            )
        self.findings, self.rule = list(findings), rule
        self.positives = dict(positives)
        self.left = count
        asked = _spread(targets or {}, findings, rule)
        begin = dict.fromkeys(findings, 0) if rule == "count" else dict(positives)
        wanted = _shares(asked, positives, images) if rule == "prevalence" else asked
        self.missing = {f: wanted[f] - begin[f] for f in findings if f in wanted}

    @property
    def total(self) -> int:
        """Images that are still to be made, at most: fewer where findings occur together."""
        return self.left if self.left is not None else int(sum(max(0, n) for n in self.missing.values()))

    def next(self) -> str | None:
        """The finding of the next image; None when every target is met."""
        if self.left is not None:
            return min(self.findings, key=self.positives.__getitem__) if self.left > 0 else None
        name = max(self.missing, key=self.missing.__getitem__, default=None)
        return name if name is not None and self.missing[name] > 0 else None

    def add(self, findings: Sequence[str]) -> None:
        """Count an image that shows these findings."""
        for finding in findings:
            self.positives[finding] += 1
            if finding in self.missing:
                self.missing[finding] -= 1
        if self.left is not None:
            self.left -= 1


def _spread(targets: Mapping[str, float], findings: Sequence[str], rule: str) -> dict[str, float]:
    """Targets by finding, checked."""
    strange = [name for name in targets if name not in (*findings, OTHERS)]
    if strange:
        raise UserError(f"targets names {strange[0]!r}; choose from {', '.join(findings)}, or {OTHERS} for all others")
    for name, value in targets.items():
        fits = 0 <= value < 1 if rule == "prevalence" else value >= 0 and value == int(value)
        if not fits:
            kind = "a share from 0 to 1" if rule == "prevalence" else "a whole number of images"
            raise UserError(f"targets: {name} is {value}; rule {rule!r} needs {kind}")
    return {f: targets.get(f, targets.get(OTHERS, 0)) for f in findings if f in targets or OTHERS in targets}


def _shares(asked: Mapping[str, float], positives: Mapping[str, int], images: int) -> dict[str, float]:
    """Positives that each finding needs for its share of N + X images, X being all that are planned.

    x_f = p_f (N + X) - n_f, where positive; summed over the findings that need any:
    X = (N sum p_f - sum n_f) / (1 - sum p_f).
    """
    needing = {f for f, share in asked.items() if share * images > positives[f]}
    while True:
        share = sum(asked[f] for f in needing)
        if share >= 1:
            raise UserError(
                f"targets: the shares of {', '.join(sorted(needing))} add up to {share:.2f}, but an image is "
                "planned for one finding; ask for less than 1 in all"
            )
        planned = (images * share - sum(positives[f] for f in needing)) / (1 - share)
        more = {f for f, p in asked.items() if p * (images + planned) > positives[f]} - needing
        if not more:
            return {f: round(p * (images + planned)) if f in needing else positives[f] for f, p in asked.items()}
        needing |= more
