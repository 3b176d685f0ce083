"""One pair after another: the cohort that lacks most, its least used source, the exemplars most like it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrsynth.synthesis.candidates import Candidates
from cxrsynth.synthesis.matching import Exemplars, Sources


@dataclass(frozen=True)
class Pair:
    """Rows of `Candidates`.

    Attributes:
        source: The healthy image.
        exemplars: Images with the findings, the first to be tried first.
        findings: Numbers of the findings that are asked for.
    """

    source: int
    exemplars: list[int]
    findings: list[int]


class Pairing:
    """Finds pairs and keeps count of them.

    Args:
        candidates: The training images.
        sources: Those that may be painted.
        exemplars: One for each finding.
        uses: int `[N]`, which this counts and the exemplars look at.
        tries: Exemplars of a pair.
        co_occurring: Ask for all findings of the exemplar.
    """

    def __init__(
        self,
        candidates: Candidates,
        sources: Sources,
        exemplars: Sequence[Exemplars],
        uses: NDArray[np.int64],
        tries: int,
        co_occurring: bool,
    ) -> None:
        self.candidates, self.sources, self.exemplars, self.uses = candidates, sources, exemplars, uses
        self.tries, self.co_occurring = tries, co_occurring
        self.before: dict[int, list[int]] = defaultdict(list)
        cohorts = len(candidates.cohort_names)
        self.positives = np.stack([np.bincount(candidates.cohorts[has], minlength=cohorts) for has in candidates.has.T])

    def next(self, finding: int) -> Pair | None:
        """The next pair for a finding, counted; None when there is none left."""
        wanted = self.positives[finding]
        for cohort in np.lexsort((np.arange(len(wanted)), wanted)).tolist():
            pair = self._of_cohort(finding, cohort)
            if pair is not None:
                return pair
        return None

    def _of_cohort(self, finding: int, cohort: int) -> Pair | None:
        exemplars, set_aside, pair = self.exemplars[finding], [], None
        while pair is None:
            taken = self.sources.take(cohort, exemplars.cells)
            if taken is None:
                break
            _, source, cell = taken
            near = exemplars.nearest(source, cell, self.before[source], 8 * self.tries)
            if near:
                pair = self._counted(source, near, finding, cohort)
                self.sources.give_back(cohort, taken, used=True)
            else:  # all of its own patient, or used up
                set_aside.append(taken)
                if exemplars.is_used_up(cell):
                    exemplars.drop(cell)
        for taken in set_aside:
            self.sources.give_back(cohort, taken, used=False)
        return pair

    def _counted(self, source: int, near: list[int], finding: int, cohort: int) -> Pair:
        has = self.candidates.has
        asked = np.flatnonzero(has[near[0]]).tolist() if self.co_occurring else [finding]
        fits = np.flatnonzero(has[np.ix_(near, asked)].all(axis=1))
        fitting = [near[k] for k in fits][: self.tries]
        self.uses[fitting[0]] += 1
        self.before[source].append(fitting[0])
        self.positives[asked, cohort] += 1
        return Pair(source, fitting, asked)
