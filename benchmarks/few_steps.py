"""How good is the student in 1, 2 and 4 steps, against its teacher in 50 and in few, on the same films and seeds?

python benchmarks/few_steps.py TEACHER STUDENT > benchmarks/results/few_steps.txt

Films are of patients that no training archive has (see guidance.py, which draws them); the region is where the finding
would lie in that patient. Effect: rise of the asked finding's score, which the phantom's oracle measures from pixels.
Distance: root mean square difference in grey levels (of 255), inside the region, from what the teacher paints in 50
steps from the same seed. Intervals: bootstrap over patients, paired over films.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guidance import Case, draw_cases, stored
from numpy.typing import NDArray
from torch import Tensor

from cxrsynth.data.phantom import FINDINGS
from cxrsynth.data.phantom.oracle import measure
from cxrsynth.evaluation.bootstrap import bootstrap
from cxrsynth.inpainting import InpaintingTask, load_inpainter

BEST = "teacher, midpoint, 50 steps"
STUDENT, SAME = "student, 4 steps", "teacher, midpoint, 4 steps"
TEACHER: dict[str, dict[str, Any]] = {
    BEST: {"solver": "midpoint", "steps": 50},
    SAME: {"solver": "midpoint", "steps": 4},
    "teacher, midpoint, 2 steps": {"solver": "midpoint", "steps": 2},
    "teacher, euler, 4 steps": {"solver": "euler", "steps": 4},
    "teacher, euler, 2 steps": {"solver": "euler", "steps": 2},
    "teacher, euler, 1 step": {"solver": "euler", "steps": 1},
}
PUPIL: dict[str, dict[str, Any]] = {f"student, {n} step{'s' * (n > 1)}": {"steps": n} for n in (4, 2, 1)}


def paint(task: InpaintingTask, cases: list[Case], **settings: Any) -> tuple[Tensor, float]:
    """The cases' films painted, and the CPU seconds that it took."""
    image = torch.stack([torch.as_tensor(stored(case.film)).float()[None] / 255 for case in cases])
    region = torch.stack([torch.as_tensor(case.mask).float()[None] for case in cases])
    names = list(task.hparams["findings"])
    condition = task.condition(len(cases), [])
    for row, case in enumerate(cases):
        condition.findings[row, names.index(case.finding)] = 1
    begin = time.process_time()
    result = task.inpaint(image, region, condition, seeds=[case.number for case in cases], **settings)
    return result, time.process_time() - begin


def grain(painted: Tensor, case: Case) -> float:
    """Spread of what neighbours differ by, inside the region, in parts of the untouched film's there."""
    steps = [
        (film[:, 1:] - film[:, :-1])[case.mask[:, 1:]].std() for film in (painted[0], torch.tensor(case.film.image))
    ]
    return float(steps[0] / steps[1])


def distances(films: NDArray[np.float32], others: NDArray[np.float32], cases: list[Case]) -> NDArray[np.float64]:
    """Root mean square difference of each film inside its region, in grey levels of 255."""
    pairs = zip(films, others, cases, strict=True)
    return np.array(
        [255 * np.sqrt(np.mean((film - other)[case.mask] ** 2, dtype=float)) for film, other, case in pairs]
    )


def shown(statistic: Any, patients: list[str]) -> str:
    value = bootstrap(lambda weights: np.atleast_2d(statistic(weights)).reshape(len(weights), 1), patients)[0]
    return f"{value.estimate:6.2f} [{value.low:5.2f}, {value.high:5.2f}]"


def try_setting(task: InpaintingTask, cases: list[Case], settings: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Scores of the asked findings before and after, grain, CPU seconds of all paintings, and the films `[N, H, W]`."""
    painted, seconds = [], 0.0
    for begin in range(0, len(cases), 8):
        result, spent = paint(task, cases[begin : begin + 8], **settings)
        painted.append(result)
        seconds += spent
    films = torch.cat(painted)[:, 0]
    before = [score(torch.as_tensor(stored(case.film)) / 255.0, case) for case in cases]
    after = [score(film, case) for film, case in zip(films, cases, strict=True)]
    texture = [grain(film[None], case) for film, case in zip(films, cases, strict=True)]
    values = {"before": before, "after": after, "grain": texture, "seconds": seconds, "films": films.numpy()}
    return {name: np.asarray(value) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("--films", type=int, default=24)
    parser.add_argument("--every", type=int, default=3, help="of the cases of a film, every so many-th")
    parser.add_argument("--keep", type=Path, help="folder in which scores are kept; those already there are not remade")
    parser.add_argument("--only", nargs="+", help="make these settings and print nothing, for parts of a long run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher, student = load_inpainter(options.teacher), load_inpainter(options.student)
    cases = [case for number in range(options.films) for case in draw_cases(number)]
    drawn = [case for case in cases if (case.number + FINDINGS.index(case.finding)) % options.every == 0]
    patients = [str(case.number) for case in drawn]
    results: dict[str, dict[str, NDArray[Any]]] = {}
    for name, settings in {**PUPIL, **TEACHER}.items():
        if options.only and name not in options.only:
            continue
        file = options.keep / f"{name}.npz" if options.keep else None
        if file is None or not file.exists():
            made = try_setting(student if name in PUPIL else teacher, drawn, settings)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file, **made)
        else:
            made = dict(np.load(file))
        results[name] = made
    if options.only:
        return
    print(f"{len(drawn)} films painted, {len(set(patients))} patients; guidance {teacher.hparams['guidance']}")
    print_results(results, drawn, patients)


def print_results(results: dict[str, dict[str, NDArray[Any]]], cases: list[Case], patients: list[str]) -> None:
    effects = {name: made["after"] - made["before"] for name, made in results.items()}
    far = {name: distances(made["films"], results[BEST]["films"], cases) for name, made in results.items()}
    best, slowest = effects[BEST], float(results[BEST]["seconds"])
    columns = f"{'effect':22s} {'share of 50 steps':22s} {'distance to 50 steps':22s} {'grain':>5s} {'s/film':>7s}"
    print(f"{'':32s} {columns} {'x faster':>8s}")
    for name, made in results.items():
        effect, seconds = effects[name], float(made["seconds"])
        mean, near = (shown(lambda w, e=e: w @ e / w.sum(1), patients) for e in (effect, far[name]))
        share = shown(lambda w, e=effect: (w @ e) / (w @ best), patients)
        times = f"{seconds / len(cases):7.3f} {slowest / seconds:8.1f}"
        print(f"{name:32s} {mean:22s} {share:22s} {near:22s} {made['grain'].mean():5.2f} {times}")
    pairs = [(STUDENT, name) for name in TEACHER]
    pairs += [("student, 2 steps", "teacher, euler, 2 steps"), ("student, 1 step", "teacher, euler, 1 step")]
    print(f"{'':55s} {'effect':22s} distance to 50 steps")
    for ours, theirs in pairs:
        less = [shown(lambda w, d=d: w @ d / w.sum(1), patients) for d in (v[ours] - v[theirs] for v in (effects, far))]
        print(f"{ours} less {theirs:31s} {less[0]:22s} {less[1]}")


def score(film: Tensor, case: Case) -> float:
    """What the oracle says of the case's finding; films are seen as they are stored."""
    pixels = (film * 255).round().numpy().astype(np.float32) / 255
    return float(measure(pixels, case.film.anatomy)[case.finding])


if __name__ == "__main__":
    main()
