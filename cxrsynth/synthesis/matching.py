"""Pairs of source and exemplar, each found in time that does not grow with the archive's size.

Sources wait in heaps, one for each cohort and cell, the least used on top. Exemplars of a finding lie in one k-d tree
for each cell; of a source's nearest ones the cheapest is taken: distance + weight x times used already.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cxrsynth.synthesis.candidates import Candidates

NEAREST = 32  # exemplars looked at for a source
REPEATED = 10.0  # what it costs to pair a source with an exemplar for the second time


class Sources:
    """Healthy images, the least used first.

    Args:
        candidates: The training images.
        per_source: How often one may be painted.
        per_patient: How often all images of one patient may be painted; None = no limit.
    """

    def __init__(self, candidates: Candidates, per_source: int, per_patient: int | None) -> None:
        self.patients = candidates.patients
        self.per_source, self.per_patient = per_source, per_patient
        self.of_patient: dict[int, int] = defaultdict(int)
        self.heaps: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for row in np.flatnonzero(candidates.sources).tolist():  # rows rise, so each list is a heap already
            self.heaps[int(candidates.cohorts[row]), int(candidates.cells[row])].append((0, row))

    def take(self, cohort: int, cells: Sequence[int]) -> tuple[int, int, int] | None:
        """Remove and return the least used source of these cells as (uses, row, cell); None when none is left."""
        best: tuple[int, int, int] | None = None
        for cell in cells:
            heap = self.heaps.get((cohort, cell))
            while heap and self._is_spent(heap[0][1]):
                heapq.heappop(heap)
            if heap and (best is None or heap[0] < best[:2]):
                best = (*heap[0], cell)
        if best is not None:
            heapq.heappop(self.heaps[cohort, best[2]])
        return best

    def give_back(self, cohort: int, taken: tuple[int, int, int], used: bool) -> None:
        """Put a source back, one use older if it was used; a spent one stays away."""
        uses, row, cell = taken
        if used:
            self.of_patient[int(self.patients[row])] += 1
            uses += 1
        if uses < self.per_source:
            heapq.heappush(self.heaps[cohort, cell], (uses, row))

    def _is_spent(self, row: int) -> bool:
        return self.per_patient is not None and self.of_patient[int(self.patients[row])] >= self.per_patient


class Exemplars:
    """Images with one finding, by cell.

    Args:
        candidates: The training images.
        finding: Number of the finding.
        uses: int `[N]`, how often each image has been an exemplar, shared by all findings.
        limit: How often an image may be an exemplar; None = no limit.
        use_weight: What one use costs, in units of distance.
        quality_weight: What a correlation of 0 in place of 1 costs.
    """

    def __init__(
        self,
        candidates: Candidates,
        finding: int,
        uses: NDArray[np.int64],
        limit: int | None,
        use_weight: float,
        quality_weight: float,
    ) -> None:
        self.candidates, self.uses, self.limit = candidates, uses, limit
        self.use_weight, self.quality_weight = use_weight, quality_weight
        rows = np.flatnonzero(candidates.has[:, finding])
        order = np.argsort(candidates.cells[rows], kind="stable")
        cells, starts = np.unique(candidates.cells[rows][order], return_index=True)
        self.rows = dict(zip(cells.tolist(), np.split(rows[order], starts[1:]), strict=True))
        self.trees: dict[int, cKDTree] = {}
        self.queues = {cell: [(0, row) for row in members.tolist()] for cell, members in self.rows.items()}

    @property
    def cells(self) -> list[int]:
        """Cells that have an exemplar left."""
        return list(self.rows)

    def drop(self, cell: int) -> None:
        """Leave a cell out from now on: its exemplars are used up."""
        self.rows.pop(cell, None)

    def nearest(self, source: int, cell: int, before: Collection[int], count: int) -> list[int]:
        """The cheapest exemplars for a source, at most `count`, none of its patient; those it had before come last."""
        members = self.rows[cell]
        look = NEAREST
        while True:
            distances, rows = self._look(source, cell, look)
            kept = self.candidates.patients[rows] != self.candidates.patients[source]
            if self.limit is not None:
                kept &= self.uses[rows] < self.limit
            if kept.any() or look >= len(members):
                break
            look *= 8
        distances, rows = distances[kept], rows[kept]
        cost = distances + self.use_weight * self.uses[rows] + REPEATED * np.isin(rows, list(before))
        thumbnails = self.candidates.thumbnails
        if thumbnails is not None and self.quality_weight:
            correlation = thumbnails[rows].astype(np.float64) @ thumbnails[source].astype(np.float64)
            cost += self.quality_weight * (1 - correlation)
        return rows[np.lexsort((rows, np.round(cost, 9)))][:count].tolist()

    def is_used_up(self, cell: int) -> bool:
        """Whether every exemplar of a cell has been used as often as it may."""
        return self.limit is not None and bool((self.uses[self.rows[cell]] >= self.limit).all())

    def _look(self, source: int, cell: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The `count` nearest exemplars and the least used ones, with their distances."""
        members, features = self.rows[cell], self.candidates.features
        if count >= len(members):
            near = members
        else:
            if cell not in self.trees:
                self.trees[cell] = cKDTree(features[members])
            near = members[np.sort(self.trees[cell].query(features[source], count)[1])]
            near = np.union1d(near, self._least_used(cell))
        return np.sqrt(((features[near] - features[source]) ** 2).sum(1)), near

    def _least_used(self, cell: int, count: int = 4) -> list[int]:
        """Some of the least used exemplars of a cell; the queue's stale entries are brought up to date."""
        queue = self.queues[cell]
        fresh: list[tuple[int, int]] = []
        while queue and len(fresh) < count:
            uses, row = heapq.heappop(queue)
            if uses != self.uses[row]:
                heapq.heappush(queue, (int(self.uses[row]), row))
                continue
            fresh.append((uses, row))
        for entry in fresh:
            heapq.heappush(queue, entry)
        return [row for _, row in fresh]
