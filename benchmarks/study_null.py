"""How often does the study's verdict say "helped" when nothing helped, and do its intervals hold the truth?

    python benchmarks/study_null.py | tee benchmarks/results/study_null.txt

Two parts. Simulated predictions of five arms on the same patients: images have a difficulty that all networks share,
each network errs on its own, and the skill of a training scatters around its arm's; the true mean AUROC of an arm is
known by simulating very many images and trainings. And trainings of a small network, over and over on new tiny
archives, with labels that are true, and with labels shuffled: then no arm can be better, whatever it trains on.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from torch.nn import functional as F

from cxrsynth.evaluation.metrics import METRICS
from cxrsynth.evaluation.trainings import Between, Draws, between_trainings, metric_draws, spreads
from cxrsynth.study.verdict import Judged, judge

FINDINGS, PREVALENCE, PATIENTS, BETWEEN, ARMS = 4, 0.12, 250, 0.15, 5
DRAWS = 250
SIDE, FILMS = 12, (300, 120, 300)  # pixels of a tiny film; training, validation and test films


def table(scores: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """Predictions of one training, one film a patient."""
    columns = {f"F{k}_prob": norm.cdf(scores[:, k]) for k in range(scores.shape[1])}
    columns |= {f"F{k}_true": truth[:, k] for k in range(scores.shape[1])}
    return pd.DataFrame({"patient_id": [str(n) for n in range(len(truth))], **columns})


def simulated(
    generator: np.random.Generator, truth: np.ndarray, difficulty: np.ndarray, skill: float, between: float, size: int
) -> Draws:
    """Bootstrapped areas of one simulated arm of `size` trainings."""
    tables = []
    for _ in range(size):
        own = skill + between * generator.normal()
        tables.append(table(own * truth + 0.8 * difficulty + 0.6 * generator.normal(size=truth.shape), truth))
    return metric_draws(tables, METRICS["auroc"], draws=DRAWS)


def true_area(skill: float, between: float) -> float:
    """Expected area: the skill's scatter blurs it."""
    skills = skill + between * np.random.default_rng(0).normal(size=200_000)
    return float(norm.cdf(skills / np.sqrt(2)).mean())


class Rates:
    """Counts of what many studies said."""

    def __init__(self) -> None:
        self.studies = self.mean = self.any = self.covered = 0
        self.widths: list[float] = []

    def add(self, judged: Sequence[Judged], truth: float) -> None:
        """One study's verdicts, and the true gain over real images."""
        gain = judged[-1].over_real
        self.studies += 1
        self.mean += judged[-1].verdict == "helped"
        self.any += any(row.verdict == "helped" for row in judged[:-1])
        self.covered += gain.low <= truth <= gain.high
        self.widths.append(gain.high - gain.low)

    def __str__(self) -> str:
        shares = (self.mean / self.studies, self.any / self.studies, self.covered / self.studies)
        return "   ".join(f"{share:14.3f}" for share in (*shares, float(np.mean(self.widths))))


def simulate(studies: int, size: int, gain: float, spread: float, pooled: bool) -> Rates:
    """Studies whose synthetic arm has `gain` more skill than the others and `spread` times their scatter."""
    generator = np.random.default_rng(size)
    difference = true_area(1.5 + gain, spread * BETWEEN) - true_area(1.5, BETWEEN)
    rates = Rates()
    for _ in range(studies):
        truth = (generator.random((PATIENTS, FINDINGS)) < PREVALENCE).astype(float)
        difficulty = generator.normal(size=truth.shape)
        others = ARMS - 1 if pooled else 2
        arms = [simulated(generator, truth, difficulty, 1.5, BETWEEN, size) for _ in range(others)]
        arms.append(simulated(generator, truth, difficulty, 1.5 + gain, spread * BETWEEN, size))
        rates.add(
            decide(arms[-1], arms[0], arms[1], between_trainings(arms) if pooled else None, generator), difference
        )
    return rates


def decide(
    made: Draws, real: Draws, control: Draws, between: Between | None, generator: np.random.Generator
) -> list[Judged]:
    """The study's verdict."""
    seeds = (int(generator.integers(2**31)) for _ in range(2))
    return judge(
        *(spreads(made - other, seed, between=between) for other, seed in zip((real, control), seeds, strict=True))
    )


def films(generator: np.random.Generator, count: int, shares: Sequence[float]) -> tuple[torch.Tensor, np.ndarray]:
    """Noise with a faint square for each finding, `[n, S * S]`, and the truth `[n, 2]`."""
    truth = (generator.random((count, 2)) < shares).astype(float)
    image = generator.normal(size=(count, SIDE, SIDE))
    for k, (row, column) in enumerate(((1, 2), (7, 6))):
        image[:, row : row + 4, column : column + 4] += 0.45 * truth[:, k, None, None]
    return torch.tensor(image.reshape(count, -1), dtype=torch.float32), truth


def learn(images: torch.Tensor, truth: np.ndarray, seed: int, test: torch.Tensor, even: bool = False) -> np.ndarray:
    """Scores on test films of a network with one hidden layer after forty steps of Adam on drawn batches."""
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(SIDE * SIDE, 24), torch.nn.ReLU(), torch.nn.Linear(24, 2))
    optimizer = torch.optim.Adam(network.parameters(), 0.01, weight_decay=1e-3)
    target = torch.tensor(truth, dtype=torch.float32)
    ill = truth.any(1)
    weight = np.where(ill, 0.5 / max(1, ill.sum()), 0.5 / max(1, (~ill).sum())) if even else np.ones(len(truth))
    for _ in range(40):
        rows = generator.choice(len(truth), 32, p=weight / weight.sum())
        loss = F.binary_cross_entropy_with_logits(network(images[rows]), target[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return network(test).numpy()


def retrained(studies: int, size: int, null: str) -> Rates:
    """Studies that train: real films, duplicates, evenly drawn ones, and synthetic films.

    Args:
        studies: How many.
        size: Trainings of each arm.
        null: "labels shuffled" (of all films: there is nothing to learn), "synthetic shuffled" (synthetic films are
            real training films under shuffled labels), or "none" (synthetic films are new films: they help).
    """
    generator = np.random.default_rng(11)
    rates = Rates()
    for _ in range(studies):
        parts = [films(generator, count, (0.06, 0.06) if k == 0 else (0.3, 0.3)) for k, count in enumerate(FILMS)]
        if null == "labels shuffled":
            parts = [(image, generator.permutation(truth)) for image, truth in parts]
        (image, truth), (val_image, val_truth), (test_image, test_truth) = parts
        ill = np.flatnonzero(truth.any(1))
        twice = generator.choice(ill, 60)
        if null == "none":
            made = films(generator, 60, (0.5, 0.5))
        else:
            again = generator.choice(len(truth), 60)
            made = (image[again], generator.permutation(truth[ill])[generator.integers(len(ill), size=60)])
        data = {
            "real": (image, truth),
            "duplicates": (torch.cat([image, image[twice]]), np.concatenate([truth, truth[twice]])),
            "even": (image, truth),
            "synthetic": (torch.cat([image, made[0]]), np.concatenate([truth, made[1]])),
        }
        first = int(generator.integers(2**31))
        both = torch.cat([val_image, test_image])
        scores = {name: [learn(*of, first + k, both, name == "even") for k in range(size)] for name, of in data.items()}
        cut = len(val_image)
        areas = {name: metric_draws([table(s[cut:], test_truth) for s in of], METRICS["auroc"], DRAWS)
                 for name, of in scores.items()}  # fmt: skip
        strongest = max(("duplicates", "even"), key=_validation(scores, val_truth))
        between = between_trainings(list(areas.values()))
        rates.add(decide(areas["synthetic"], areas["real"], areas[strongest], between, generator), 0.0)
    return rates


def _validation(scores: dict[str, list[np.ndarray]], truth: np.ndarray) -> Callable[[str], float]:
    """Mean validation AUROC of an arm, which the strongest control is chosen by."""
    tables = {name: [table(score[: len(truth)], truth) for score in of] for name, of in scores.items()}
    return lambda name: float(np.nanmean(metric_draws(tables[name], METRICS["auroc"], 1).full[:, -1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200, help="simulated studies of each kind")
    parser.add_argument(
        "--retrained", type=int, default=200, help="studies that train, of each null; a quarter without"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    titles = ("'helped', mean", "'helped', any", "covered", "width")
    print(f"{options.studies} simulated studies each: {PATIENTS} test patients, {FINDINGS} findings, {ARMS} arms, 95 %")
    print(f"{'trainings  true gain  spread  pooled':38s}" + "   ".join(f"{title:>14s}" for title in titles))
    for size in (2, 3):
        for gain, spread, pooled in ((0, 1, False), (0, 1, True), (0.5, 1, False), (0.5, 1, True), (0, 2, True)):
            rates = simulate(options.studies, size, gain, spread, pooled)
            true = true_area(1.5 + gain, spread * BETWEEN) - true_area(1.5, BETWEEN)
            print(f"{size:9d}  {true:9.3f}  {spread:6d}  {pooled!s:6s}  {rates}", flush=True)
    print(f"\n{options.retrained} studies each that train four arms of three networks on new tiny archives")
    print("('covered': of a true gain of 0, which only shuffled labels make certain)")
    print(f"{'null':38s}" + "   ".join(f"{title:>14s}" for title in titles))
    for null in ("labels shuffled", "synthetic shuffled", "none"):
        studies = options.retrained if null != "none" else options.retrained // 4
        print(f"{null:38s}{retrained(studies, 3, null)}", flush=True)


if __name__ == "__main__":
    main()
