"""How good is the student in 1, 2 and 4 steps, against its teacher in 50 and in few, on the same films and seeds?

python benchmarks/few_steps.py TEACHER STUDENT > benchmarks/results/few_steps.txt

Films are of patients that no training archive has (see guidance.py, which draws them); the region is where the finding
would lie in that patient. Effect: rise of the asked finding's score, which the phantom's oracle measures from pixels.
Intervals: bootstrap over patients, paired.
"""

import argparse
import time
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
    "teacher, midpoint, 8 steps": {"solver": "midpoint", "steps": 8},
    SAME: {"solver": "midpoint", "steps": 4},
    "teacher, midpoint, 2 steps": {"solver": "midpoint", "steps": 2},
    "teacher, euler, 4 steps": {"solver": "euler", "steps": 4},
    "teacher, euler, 4 equal steps": {"solver": "euler", "steps": 4, "warp": 1.0},
    "teacher, heun, 2 steps": {"solver": "heun", "steps": 2},
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


def shown(statistic: Any, patients: list[str]) -> str:
    value = bootstrap(lambda weights: np.atleast_2d(statistic(weights)).reshape(len(weights), 1), patients)[0]
    return f"{value.estimate:6.2f} [{value.low:5.2f}, {value.high:5.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("--films", type=int, default=24)
    parser.add_argument("--every", type=int, default=3, help="of the cases of a film, every so many-th")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher, student = load_inpainter(options.teacher), load_inpainter(options.student)
    drawn = [
        case for case in draw_cases(options.films) if (case.number + FINDINGS.index(case.finding)) % options.every == 0
    ]
    patients = [str(case.number) for case in drawn]
    before = np.array([score(torch.as_tensor(stored(case.film)) / 255.0, case) for case in drawn])
    effects: dict[str, NDArray[np.float64]] = {}
    rows = []
    for name, settings in {**PUPIL, **TEACHER}.items():
        task = student if name in PUPIL else teacher
        painted, seconds = [], 0.0
        for begin in range(0, len(drawn), 8):
            result, spent = paint(task, drawn[begin : begin + 8], **settings)
            painted.append(result)
            seconds += spent
        films = torch.cat(painted)[:, 0]
        effects[name] = np.array([score(film, case) for film, case in zip(films, drawn, strict=True)]) - before
        texture = float(np.mean([grain(film[None], case) for film, case in zip(films, drawn, strict=True)]))
        rows.append((name, seconds / len(drawn), texture))
    best = effects[BEST]
    print(f"{len(drawn)} films painted, {len(set(patients))} patients; guidance {teacher.hparams['guidance']}")
    print(f"{'':32s} {'effect':22s} {'share of 50 steps':22s} {'grain':>5s} {'s/film':>7s} {'x faster':>8s}")
    slowest = next(seconds for name, seconds, _ in rows if name == BEST)
    for name, seconds, texture in rows:
        effect = effects[name]
        mean = shown(lambda w, e=effect: w @ e / w.sum(1), patients)
        share = shown(lambda w, e=effect: (w @ e) / (w @ best), patients)
        print(f"{name:32s} {mean:22s} {share:22s} {texture:5.2f} {seconds:7.3f} {slowest / seconds:8.1f}")
    for name in TEACHER:
        difference = effects[STUDENT] - effects[name]
        print(f"{STUDENT} less {name:31s} {shown(lambda w, d=difference: w @ d / w.sum(1), patients)}")


def score(film: Tensor, case: Case) -> float:
    """What the oracle says of the case's finding; films are seen as they are stored."""
    pixels = (film * 255).round().numpy().astype(np.float32) / 255
    return float(measure(pixels, case.film.anatomy)[case.finding])


if __name__ == "__main__":
    main()
