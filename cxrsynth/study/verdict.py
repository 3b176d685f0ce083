"""From intervals to a word: helped, did not help, cannot tell, or memorised."""

from collections.abc import Sequence
from dataclasses import dataclass

from cxrsynth.evaluation.compare import SMALLEST_GAIN, verdict
from cxrsynth.evaluation.multiple import holm
from cxrsynth.evaluation.trainings import Spread

LEVEL = 0.05
MEMORISED = "memorised"


@dataclass(frozen=True)
class Judged:
    """The verdict on one finding, or on their mean.

    Attributes:
        over_real: Gain over training on real images alone.
        over_control: Gain over the strongest control.
        p: The larger of both gains' p values, corrected over the findings; both must be shown.
        verdict: "helped", "did not help" or "cannot tell".
    """

    over_real: Spread
    over_control: Spread
    p: float
    verdict: str


def judge(
    over_real: Sequence[Spread], over_control: Sequence[Spread], smallest_gain: float = SMALLEST_GAIN
) -> list[Judged]:
    """The verdict on each finding and, last, on their mean.

    Helped: both gains lie above 0, and for a single finding also after Holm's correction over the findings. Did not
    help: one of both gains is shown to be smaller than `smallest_gain`. The mean of the findings is the study's one
    main question and is not corrected.

    Args:
        over_real: Gains over real images alone, findings first, their mean last.
        over_control: Gains over the strongest control.
        smallest_gain: The smallest gain worth having.
    """
    both = list(zip(over_real, over_control, strict=True))
    p_values = [max(a.p, b.p) for a, b in both]
    adjusted = [*holm(p_values[:-1]).tolist(), p_values[-1]]
    judged = []
    for (a, b), p in zip(both, adjusted, strict=True):
        words = [verdict(gain.low, gain.high, smallest_gain) for gain in (a, b)]
        if "did not help" in words:
            word = "did not help"
        else:
            word = "helped" if words == ["helped", "helped"] and p < LEVEL else "cannot tell"
        judged.append(Judged(a, b, p, word))
    return judged


def overall(mean: str, memorised: bool) -> str:
    """The study's one word: what was copied is not proof of anything, whatever it does to a classifier."""
    return MEMORISED if memorised else mean
