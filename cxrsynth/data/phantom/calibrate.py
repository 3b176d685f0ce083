"""Fit the oracle's weights on simulated films: `python -m cxrsynth.data.phantom.calibrate`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter
from sklearn.linear_model import LogisticRegression, Ridge

from cxrsynth.data.phantom.archive import simulate
from cxrsynth.data.phantom.layers import WORKING_SIZE, Measured
from cxrsynth.data.phantom.measurements import measure_film
from cxrsynth.data.phantom.oracle import ROUND, SIDED, WHOLE, expand, film_with_blob
from cxrsynth.data.phantom.render import Lesion
from cxrsynth.data.phantom.shapes import Array
from cxrsynth.files import write_text

COUNT, SEED = 2800, 1000
STRENGTH = {"right": 0.015, "left": 0.015, "candidate": 0.1, "film": 0.005}  # inverse of the L2 penalty

Example = tuple[Measured, dict[str, float]]


def collect(indices: Sequence[int], seed: int = SEED) -> dict[str, list[Example]]:
    """Measurements and truth of each lung, candidate and film.

    A third of the diseased films show a blob instead of a lesion and count as healthy. A third of all films are
    softened in one place, as a painted region is: neither blob nor blur shall pass for a finding.
    """
    examples: dict[str, list[Example]] = {kind: [] for kind in STRENGTH}
    for index in indices:
        rng = np.random.default_rng([seed, 99, index])
        film = simulate(index, seed, WORKING_SIZE)
        image, lesions = film.image, film.lesions
        if lesions and rng.random() < 0.3:
            image, lesions = film_with_blob(film, lesions[rng.integers(len(lesions))].finding), ()
        if rng.random() < 0.3:
            image = soften(image, rng)
        measured = measure_film(image)
        for side, numbers in zip(("right", "left"), measured.sides, strict=True):
            shown = {x.finding for x in lesions if x.place.startswith(side)}
            examples[side].append((numbers, {name: float(name in shown) for name in SIDED}))
        round_mask = _mask(lesions, ROUND[0])
        for numbers, place in zip(measured.candidates, measured.places, strict=True):
            examples["candidate"].append((numbers, {ROUND[0]: float(round_mask[place])}))
        truth = {"Cardiomegaly": float(any(x.finding == "Cardiomegaly" for x in lesions))}
        truth |= {"AP": float(film.exposure.view == "AP"), "F": float(film.patient.sex == "F")}
        examples["film"].append((measured.film, truth | {"age": float(film.patient.age)}))
    return examples


def soften(image: Array, rng: np.random.Generator) -> Array:
    """Blur a disc of the film, with a soft border."""
    size = image.shape[0]
    y, x = np.indices(image.shape)
    row, column = rng.uniform(0.2, 0.8, 2) * size
    share = 1 / (1 + np.exp((np.hypot(y - row, x - column) - rng.uniform(0.1, 0.3) * size) / 2))
    return ((1 - share) * image + share * gaussian_filter(image, rng.uniform(0.5, 1.2))).astype(np.float32)


def _mask(lesions: Sequence[Lesion], finding: str) -> NDArray[np.bool_]:
    total = np.zeros((WORKING_SIZE, WORKING_SIZE), bool)
    for lesion in lesions:
        if lesion.finding == finding:
            total |= binary_dilation(lesion.mask)
    return total


def fit(examples: dict[str, list[Example]]) -> dict[str, dict[str, Any]]:
    """Logistic and ridge regressions on standardised numbers; both lungs share their weights.

    A lung's numbers are standardised on its own side, because only the left one has a heart beside it.
    """
    table: dict[str, dict[str, Any]] = {}
    inputs: dict[str, NDArray] = {}
    truths: dict[str, dict[str, NDArray]] = {}
    for kind, rows in examples.items():
        names = list(rows[0][0])
        x = np.array([[numbers[name] for name in names] for numbers, _ in rows])
        mean, scale = x.mean(0), x.std(0) + 1e-6
        inputs[kind] = expand((x - mean) / scale)
        truths[kind] = {name: np.array([truth[name] for _, truth in rows]) for name in rows[0][1]}
        table[kind] = {"names": names, "mean": _short(mean), "scale": _short(scale), "weights": {}, "offset": {}}
    for kinds in (("right", "left"), ("candidate",), ("film",)):
        x = np.concatenate([inputs[kind] for kind in kinds])
        for name in truths[kinds[0]]:
            y = np.concatenate([truths[kind][name] for kind in kinds])
            strength = STRENGTH[kinds[0]]
            if name == "age":
                model = Ridge(alpha=0.5 / strength).fit(x, y)
            else:
                model = LogisticRegression(C=strength, max_iter=1000, class_weight="balanced").fit(x, y)
            for kind in kinds:
                table[kind]["weights"][name] = _short(np.ravel(model.coef_))
                table[kind]["offset"][name] = float(np.round(np.ravel(model.intercept_)[0], 4))
    return table


def _short(values: NDArray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def write_table(path: Path, table: dict[str, dict[str, Any]]) -> Path:
    """Write the table as JSON, one line for each list, so that changes can be read."""
    blocks = []
    for kind, block in table.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(block[key])}" for key in ("names", "mean", "scale", "offset")]
        weights = ",\n".join(
            f"    {json.dumps(name)}: {json.dumps(values)}" for name, values in block["weights"].items()
        )
        lines.append('  "weights": {\n' + weights + "\n  }")
        blocks.append(f"{json.dumps(kind)}: {{\n" + ",\n".join(lines) + "\n}")
    return write_text(path, "{\n" + ",\n".join(blocks) + "\n}\n")


def main() -> None:
    """Fit on fresh films and replace the table of the package."""
    examples = collect(range(COUNT))
    table = fit(examples)
    assert set(table["film"]["weights"]) == set(WHOLE)
    sys.stdout.write(f"{write_table(Path(__file__).with_name('calibration.json'), table)}\n")


if __name__ == "__main__":
    main()
