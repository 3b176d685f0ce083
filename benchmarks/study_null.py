"""How often does the study's verdict say "helped" when nothing helped, and do its intervals hold the truth?

    python benchmarks/study_null.py | tee benchmarks/results/study_null.txt

Simulated predictions of three arms (real only, the strongest control, synthetic) on the same patients: images have a
difficulty that all networks share, each network errs on its own, and the skill of a training scatters around its arm's.
The true mean AUROC of an arm is known by simulating very many images and trainings.
"""

import argparse

import numpy as np
import pandas as pd
from scipy.stats import norm

from cxrsynth.evaluation.metrics import METRICS
from cxrsynth.evaluation.trainings import Draws, metric_draws, spreads
from cxrsynth.study.verdict import judge

FINDINGS, PREVALENCE, PATIENTS, BETWEEN = 6, 0.12, 250, 0.15


def arm(
    generator: np.random.Generator, truth: np.ndarray, difficulty: np.ndarray, skill: float, trainings: int
) -> Draws:
    """Bootstrapped areas of one arm's trainings."""
    patients = [str(n) for n in range(len(truth))]
    tables = []
    for _ in range(trainings):
        own = skill + BETWEEN * generator.normal()
        score = own * truth + 0.8 * difficulty + 0.6 * generator.normal(size=truth.shape)
        columns = {f"F{k}_prob": norm.cdf(score[:, k]) for k in range(FINDINGS)}
        columns |= {f"F{k}_true": truth[:, k] for k in range(FINDINGS)}
        tables.append(pd.DataFrame({"patient_id": patients, **columns}))
    return metric_draws(tables, METRICS["auroc"], draws=300)


def true_area(skill: float) -> float:
    """Expected area: the skill's scatter blurs it."""
    skills = skill + BETWEEN * np.random.default_rng(0).normal(size=200_000)
    return float(norm.cdf(skills / np.sqrt(2)).mean())


def simulate(studies: int, trainings: int, gain: float, seed: int) -> dict[str, float]:
    """Rates over many studies whose synthetic arm has `gain` more skill than both others."""
    generator = np.random.default_rng(seed)
    difference = true_area(1.5 + gain) - true_area(1.5)
    mean_helped = any_helped = covered = 0
    for _ in range(studies):
        truth = (generator.random((PATIENTS, FINDINGS)) < PREVALENCE).astype(float)
        difficulty = generator.normal(size=truth.shape)
        real, control, made = (arm(generator, truth, difficulty, 1.5 + g, trainings) for g in (0, 0, gain))
        judged = judge(spreads(made - real, int(generator.integers(2**31))), spreads(made - control))
        mean_helped += judged[-1].verdict == "helped"
        any_helped += any(row.verdict == "helped" for row in judged[:-1])
        covered += judged[-1].over_real.low <= difference <= judged[-1].over_real.high
    return {"mean": mean_helped / studies, "any finding": any_helped / studies, "covered": covered / studies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    options = parser.parse_args()
    print(f"{options.studies} simulated studies each: {PATIENTS} test patients, {FINDINGS} findings, 95 % intervals\n")
    print("trainings  true gain   'helped', mean   'helped', any finding   interval of the mean's gain holds the truth")
    for trainings in (2, 3, 5):
        for gain in (0.0, 0.5):
            rates = simulate(options.studies, trainings, gain, seed=trainings)
            size = true_area(1.5 + gain) - true_area(1.5)
            print(f"{trainings:9d}  {size:9.3f}   {rates['mean']:14.3f}   {rates['any finding']:21.3f}   "
                  f"{rates['covered']:10.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
