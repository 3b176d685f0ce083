"""Does one inpainter follow every kind of guidance? Judged by the phantom's oracle, from pixels alone.

python benchmarks/guidance.py phantom > benchmarks/results/guidance.txt

Each film is of a patient of its own, drawn with a seed that no training archive has. Its twins show the same film with
one finding simulated into it: they say where the finding would lie in this patient (masks, boxes), what a true one does
to the oracle's scores (kind `simulated`), and are what a removal starts from. All edits go through
`cxrsynth.editing.edit`, on 8-bit films, with the inpainter's own settings. Intervals: bootstrap over patients.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from cxrsynth.data.phantom import FINDINGS
from cxrsynth.data.phantom.oracle import measure
from cxrsynth.data.phantom.patient import Exposure, Patient
from cxrsynth.data.phantom.render import Phantom, render
from cxrsynth.data.sentences import write_sentence
from cxrsynth.editing.edit import edit
from cxrsynth.evaluation.bootstrap import Interval, bootstrap
from cxrsynth.evaluation.effects import effects_table
from cxrsynth.inpainting import InpaintingTask, load_inpainter

SEED = 4_000_000  # of the films
SEVERITY = (0.6, 1.0)
MARGIN = 2  # pixels by which a lesion's mask and box are widened, as regions of training are
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
PAIRS = (("view", "AP", "PA", "AP"), ("sex", "F", "M", "F"), ("age", 75.0, 30.0, "age"))  # field, two wishes, score

Film = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A film without findings, and its twin with one: image, and where the finding lies."""

    number: int
    finding: str
    film: Phantom
    twin: Phantom

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The lesion and a margin."""
        return binary_dilation(self.twin.lesions[0].mask, iterations=MARGIN)

    @property
    def box(self) -> list[int]:
        """About the mask, half open."""
        rows, columns = (np.flatnonzero(self.mask.any(axis)) for axis in (1, 0))
        return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def draw_cases(number: int) -> Iterator[Case]:
    """The cases of one patient."""
    rng = np.random.default_rng([SEED, number])
    patient, exposure = Patient.draw(int(rng.integers(2**31))), Exposure.draw(int(rng.integers(2**31)))
    film = render(patient, exposure)
    for finding in FINDINGS:
        twin = render(patient, exposure, [(finding, float(rng.uniform(*SEVERITY)))])
        if twin.lesions:
            yield Case(number, finding, film, twin)


class Bench:
    """Paints requests and keeps the oracle's scores."""

    def __init__(self, task: InpaintingTask, settings: dict[str, Any]):
        self.task, self.settings = task, settings
        self.rows: list[dict[str, Any]] = []
        self.edits = self.exact = 0
        self.known: dict[int, dict[str, float]] = {}

    def paint(self, source: Film, **asked: Any) -> tuple[Film, NDArray[np.bool_]]:
        """An edit: result and region."""
        edited = edit(source, checkpoint=self.task, **self.settings, **asked)
        self.edits += 1
        self.exact += bool((edited.pixels[~edited.region] == source[~edited.region]).all())
        return edited.pixels, edited.region

    def score(self, film: Film, case: Case | None) -> dict[str, float]:
        """Of an edited film with the patient's known anatomy, or of a whole new film."""
        return measure(film.astype(np.float32) / 255, None if case is None else case.film.anatomy)

    def source(self, film: Film, case: Case | None) -> dict[str, float]:
        """`score`, once for each film."""
        key = hash((film.tobytes(), case is None))
        if key not in self.known:
            self.known[key] = self.score(film, case)
        return self.known[key]

    def note(self, kind: str, case: Case, source: Film, result: Film, whole: bool = False) -> dict[str, float]:
        """Score source and result on every finding; gives the result's scores."""
        before = self.source(source, None if whole else case)
        after = self.score(result, None if whole else case)
        for scored in FINDINGS:
            told = {"id": f"{kind}_{case.number}_{case.finding}", "source_patient": str(case.number), "scorer": kind}
            values = {"before": before[scored], "after": after[scored]}
            self.rows.append({**told, "finding": case.finding, "scored": scored, **values})
        return after


def stored(film: Phantom) -> Film:
    return np.round(np.clip(film.image, 0, 1) * 255).astype(np.uint8)


def mean(values: Any, patients: Any) -> Interval:
    table = np.asarray(values, float)
    return bootstrap(lambda weights: (weights @ table / weights.sum(1))[:, None], [str(p) for p in patients])[0]


def shown(interval: Interval) -> str:
    return f"{interval.estimate:7.2f} [{interval.low:6.2f}, {interval.high:6.2f}]"


def fine_power(film: Film) -> NDArray[np.float64]:
    """Power of what a Gaussian of one pixel takes away."""
    pixels = film.astype(float)
    return (pixels - gaussian_filter(pixels, 1.0)) ** 2


def border_step(film: Film, region: NDArray[np.bool_]) -> float:
    """Mean absolute step between neighbours of which one is painted."""
    pixels = film.astype(float)
    steps = [np.abs(np.diff(pixels, axis=a))[np.diff(region.astype(int), axis=a) != 0] for a in (0, 1)]
    return float(np.concatenate(steps).mean())


def run_case(bench: Bench, case: Case) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All kinds of guidance for one film and finding; gives traces, and scores by strength."""
    strengths = []
    film, twin = stored(case.film), stored(case.twin)
    finding, seed = case.finding, case.number
    rng = np.random.default_rng([SEED, case.number, FINDINGS.index(finding)])
    bench.note("simulated", case, film, twin)
    bench.note("label", case, film, bench.paint(film, finding=finding, seed=seed)[0])
    text = write_sentence(finding, True, rng)
    bench.note("text", case, film, bench.paint(film, text=text, mask=case.mask, seed=seed)[0])
    denied = write_sentence(finding, False, rng)
    bench.note("text denies it", case, film, bench.paint(film, text=denied, mask=case.mask, seed=seed)[0])
    bench.note("box", case, film, bench.paint(film, finding=finding, box=case.box, seed=seed)[0])
    bench.note("full", case, film, bench.paint(film, finding=finding, full=True, seed=seed)[0], whole=True)
    removed, region = bench.paint(twin, finding=finding, remove=True, mask=case.mask, seed=seed)
    bench.note("removal", case, twin, removed)
    for strength in STRENGTHS if case.number % 2 == 0 else (1.0,):
        painted, region = bench.paint(film, finding=finding, mask=case.mask, strength=strength, seed=seed)
        score = bench.note("mask" if strength == 1 else f"strength {strength}", case, film, painted)[finding]
        if case.number % 2 == 0:
            strengths.append({"finding": finding, "strength": strength, "score": score})
    healthy, _ = bench.paint(film, finding=finding, remove=True, mask=case.mask, seed=seed)
    bench.note("healthy repainted", case, film, healthy)
    other, _ = bench.paint(film, finding=finding, mask=case.mask, seed=seed + 1000)
    ring = binary_dilation(region, iterations=8) & ~binary_dilation(region, iterations=1)
    inner = ~binary_dilation(~region, iterations=2)
    trace: dict[str, Any] = {"patient": case.number, "finding": finding}
    for name, made in (("painted", painted), ("healthy", healthy), ("simulated", twin)):
        trace[f"seam {name}"] = border_step(made, region) / border_step(film, region)
        if inner.sum() >= 20:
            power, before = fine_power(made), fine_power(film)
            trace[f"fine {name}"] = power[inner].mean() / power[ring].mean()
            trace["fine source"] = before[inner].mean() / before[ring].mean()
    trace["between seeds"] = np.abs(painted.astype(float) - other)[region].mean()
    trace["from the source"] = np.abs(painted.astype(float) - film)[region].mean()
    return trace, strengths


def run_pairs(bench: Bench, film: Phantom, number: int) -> list[dict[str, Any]]:
    """Whole new films that differ in view, sex or age alone."""
    rows = []
    for field, first, second, score in PAIRS:
        made = [
            bench.paint(stored(film), remove=True, full=True, seed=number, **{field: wish})[0]
            for wish in (first, second)
        ]
        values = [bench.score(image, None)[score] for image in made]
        rows.append({"patient": number, "field": field, "first": values[0], "second": values[1]})
    return rows


def print_effects(rows: list[dict[str, Any]]) -> None:
    table = effects_table(pd.DataFrame(rows))
    asked = table[table.scored == table.finding]
    print("Asked finding, log odds by the oracle: after minus before [95 % interval], share of films that rose")
    kinds = ("simulated", "label", "text", "mask", "box", "full", "text denies it", "healthy repainted", "removal")
    print(f"{'':18s}" + "".join(f"{finding:>28s}" for finding in FINDINGS))
    for kind in kinds:
        cells = []
        for finding in FINDINGS:
            row = asked[(asked.scorer == kind) & (asked.finding == finding)].iloc[0]
            cells.append(f"{row.difference:7.2f} [{row.low:5.1f},{row.high:5.1f}] {row.risen:4.0%}")
        print(f"{kind:18s}" + "".join(f"{cell:>28s}" for cell in cells))
    every = pd.DataFrame(rows)
    every["change"] = every.after - every.before
    print("\nAll findings together: the asked one, and the five that were not asked for")
    print(f"{'':18s} {'asked':>26s} {'not asked':>26s}   not asked that rise (interval above 0)")
    for kind in kinds:
        part = every[every.scorer == kind]
        hit = part[part.finding == part.scored]
        miss = part[part.finding != part.scored]
        rising = table[(table.scorer == kind) & (table.finding != table.scored) & (table.verdict == "rises")]
        print(
            f"{kind:18s} {shown(mean(hit.change, hit.source_patient)):>26s} "
            f"{shown(mean(miss.change, miss.source_patient)):>26s}   {len(rising)} of 30"
        )
    print("\nThe same less what the simulated lesion of that patient does to the oracle's scores")
    for kind in ("label", "text", "mask", "box"):  # whole new films are measured without their anatomy
        cells = []
        for hit in (True, False):
            part = every[(every.finding == every.scored) == hit]
            cells.append(shown(_less(part, kind, "simulated")))
        print(f"{kind:18s} {cells[0]:>26s} {cells[1]:>26s}")
    asked_for = every[every.finding == every.scored]
    print(f"text denies it, less healthy repainted: {shown(_less(asked_for, 'text denies it', 'healthy repainted'))}")


def _less(rows: pd.DataFrame, kind: str, control: str) -> Interval:
    """Mean difference of two kinds, film by film and score by score."""
    paired = rows.pivot(index=["source_patient", "finding", "scored"], columns="scorer", values="change")
    difference = paired[kind] - paired[control]
    return mean(difference, difference.index.get_level_values(0))


def print_rest(traces: pd.DataFrame, strengths: pd.DataFrame, pairs: pd.DataFrame) -> None:
    print("\nStrength: score of the asked finding, mean over every second film, at " + ", ".join(map(str, STRENGTHS)))
    table = strengths.pivot_table(index="finding", columns="strength", values="score")
    for finding in FINDINGS:
        values = table.loc[finding].tolist()
        monotone = "rises throughout" if all(np.diff(values) > 0) else "not monotone"
        print(f"{finding:18s}" + "".join(f"{value:8.2f}" for value in values) + f"   {monotone}")
    print("all together      " + "".join(f"{value:8.2f}" for value in table.mean()))
    print("\nWhole new films that differ in one wish alone: score with the first wish minus that with the second")
    for field, first, second, score in PAIRS:
        part = pairs[pairs.field == field]
        difference = mean(part["first"] - part["second"], part.patient)
        right = (part["first"] > part["second"]).mean()
        print(f"{field} {first} against {second}, score {score:4s}: {shown(difference)}   right way round {right:.0%}")
    print("\nTraces, mean over films [95 % interval]")
    for name, words in (
        ("seam healthy", "step across the border against the source's, painted as healthy"),
        ("seam painted", "the same, with the finding"),
        ("seam simulated", "the same, simulated finding"),
        ("fine source", "fine power inside / around, source"),
        ("fine healthy", "fine power inside / around, painted as healthy"),
        ("fine painted", "the same, with the finding"),
        ("fine simulated", "the same, simulated finding"),
        ("between seeds", "grey levels between two seeds, inside"),
        ("from the source", "grey levels from the source, inside"),
    ):
        part = traces.dropna(subset=[name])
        print(f"{words:62s} {shown(mean(part[name], part.patient))}")
    within = traces["fine painted"].dropna().between(0.5, 2).mean()
    print(f"films with fine power within 0.5 to 2 of its surroundings: {within:.0%}")


def run(number: int) -> dict[str, Any]:
    """Everything for one patient, once."""
    file = None if OPTIONS.keep is None else OPTIONS.keep / f"{number}.json"
    if file is not None and file.exists():
        return dict(json.loads(file.read_text()))
    made = make(number)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made, default=float))
    return made


def make(number: int) -> dict[str, Any]:
    bench = Bench(load_inpainter(OPTIONS.checkpoint), {"steps": OPTIONS.steps, "guidance": OPTIONS.guidance})
    cases = list(draw_cases(number))
    found = [run_case(bench, case) for case in cases]
    return {
        "rows": bench.rows,
        "traces": [trace for trace, _ in found],
        "strengths": [row for _, rows in found for row in rows],
        "pairs": run_pairs(bench, cases[0].film, number),
        "edits": [(bench.edits, bench.exact)],
    }


def main() -> None:
    torch.set_num_threads(1)
    task = load_inpainter(OPTIONS.checkpoint)
    hp = task.hparams
    print(f"# {OPTIONS.checkpoint}: size {hp['size']}, {sum(p.numel() for p in task.velocity.parameters())} weights")
    print(f"# {hp['solver']}, {OPTIONS.steps or hp['steps']} steps, guidance {OPTIONS.guidance or hp['guidance']}")
    with get_context("fork").Pool(OPTIONS.processes) as pool:
        parts = pool.map(run, range(OPTIONS.films), chunksize=1)
    found = {name: [row for part in parts for row in part[name]] for name in parts[0]}
    edits, exact = np.sum(found["edits"], 0)
    print(f"# {OPTIONS.films} patients, {len(found['traces'])} pairs of film and finding, {edits} edits\n")
    print_effects(found["rows"])
    print_rest(pd.DataFrame(found["traces"]), pd.DataFrame(found["strengths"]), pd.DataFrame(found["pairs"]))
    print(f"\nOutside the region: {exact} of {edits} edits exact")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--films", type=int, default=16)
    parser.add_argument("--steps", type=int, help="default: the inpainter's own")
    parser.add_argument("--guidance", type=float, help="default: the inpainter's own")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--keep", type=Path, help="folder in which figures of patients are kept; they are not made again"
    )
    OPTIONS = parser.parse_args()
    main()
