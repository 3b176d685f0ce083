"""A finding that the shipped inpainter of simulated films never knew, learned from 30 images; are the others kept?

python benchmarks/new_finding.py archive runs/new_finding/archive
cxrsynth fit --config lightning_configs/inpainting_new_finding.yaml
python benchmarks/new_finding.py measure runs/new_finding/checkpoints/last.ckpt > benchmarks/results/new_finding.txt

The new finding is a pacemaker: a white box with round corners and a wire, which nothing in the simulated archives
resembles. Its 30 films lie among 300 others of the old findings. Measured on patients of neither archive.
"""

import argparse
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from guidance import SEED, Bench, Film, draw_cases, mean, shown, stored
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from cxrsynth.data.phantom import write_phantom
from cxrsynth.data.reading import write_png
from cxrsynth.files import write_text
from cxrsynth.inpainting import load_inpainter

NEW = "Pacemaker"
IMAGES = 30
OTHERS = 300
WHITE = 0.85 * 255


def plant(film: Film, rng: np.random.Generator) -> tuple[Film, NDArray[np.bool_]]:
    """A film of 128 pixels with a pacemaker in the upper chest, on either side, and where it lies."""
    x = rng.uniform(26, 36) if rng.random() < 0.5 else rng.uniform(92, 102)
    y, width, height = rng.uniform(30, 46), rng.uniform(6, 8), rng.uniform(5, 6.5)
    rows, columns = np.mgrid[:128, :128]
    box = ((np.abs(columns - x) / width) ** 4 + (np.abs(rows - y) / height) ** 4) < 1
    along = np.linspace(0, 1, 60)
    wire = np.zeros_like(box)
    wire_x = x + (64 - x) * along**1.5
    wire[np.round(y - height + 18 * along - 10 * np.sin(np.pi * along)).astype(int), np.round(wire_x).astype(int)] = (
        True
    )
    mask = box | wire
    made = np.where(mask, np.maximum(film, np.where(box, 245, 225)), film).astype(np.uint8)
    return made, mask


def write_archive(out: Path) -> None:
    """Simulated films, the first healthy ones of them with the new finding."""
    write_phantom(out, count=OTHERS + IMAGES, seed=55, healthy=0.4, patients=OTHERS + IMAGES, severity=(0.5, 1.0))
    table = pd.read_csv(out / "metadata.csv", keep_default_na=False)
    masks = pd.read_csv(out / "masks.csv")
    if NEW in set(masks.structure):
        return
    chosen = table.index[table.labels == "No Finding"][:IMAGES]
    rng = np.random.default_rng(7)
    marks = []
    for row in chosen:
        path = out / table.at[row, "path"]
        film, mask = plant(np.array(Image.open(path)), rng)
        write_png(path, film)
        marked = f"masks/{table.at[row, 'image_id']}_{NEW}.png"
        write_png(out / marked, mask.astype(np.uint8) * 255)
        marks.append((table.at[row, "image_id"], marked, NEW))
        table.loc[row, ["labels", "text"]] = [NEW, ""]
    table["split"] = "train"
    write_text(out / "masks.csv", pd.concat([masks, pd.DataFrame(marks, columns=masks.columns)]).to_csv(index=False))
    write_text(out / "metadata.csv", table.to_csv(index=False))


def box_about(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = (np.flatnonzero(binary_dilation(mask, iterations=3).any(axis)) for axis in (1, 0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def measure_one(number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """For one patient: rises of the old findings before and after, and the new one's white pixels."""
    benches = {"before": Bench(load_inpainter("phantom"), {}), "after": Bench(load_inpainter(OPTIONS.path), {})}
    old = []
    for case in draw_cases(number):
        film = stored(case.film)
        row: dict[str, Any] = {"patient": number, "finding": case.finding}
        for name, bench in benches.items():
            painted, _ = bench.paint(film, finding=case.finding, mask=case.mask, seed=number)
            row[name] = bench.score(painted, case)[case.finding] - bench.source(film, case)[case.finding]
        old.append(row)
    truth, mask = plant(film, np.random.default_rng([SEED, number, 7]))
    box = box_about(mask)
    asked: dict[str, Any] = {"box": box, "seed": number, "finding": NEW}
    made = benches["after"].paint(film, **asked)[0]
    none = benches["after"].paint(film, **asked, remove=True)[0]
    inside = np.s_[box[1] : box[3], box[0] : box[2]]
    films = {"source": film, "planted": truth, "asked": made, "none": none}
    return old, {"patient": number, **{name: (image[inside] > WHITE).sum() for name, image in films.items()}}


def measure_all(checkpoint: str, films: int) -> None:
    with get_context("fork").Pool(OPTIONS.processes) as pool:
        parts = pool.map(measure_one, range(films), chunksize=1)
    old, new = [row for rows, _ in parts for row in rows], [row for _, row in parts]
    fresh, kept = pd.DataFrame(new), pd.DataFrame(old)
    print(f"# {checkpoint}, started from the shipped inpainter of simulated films; {films} patients")
    print(f"{NEW}: white pixels in its box, mean over patients [95 % interval]")
    for name, words in (
        ("source", "untouched source"),
        ("planted", "planted"),
        ("asked", "painted, asked for"),
        ("none", "painted, no finding asked for"),
    ):
        print(f"  {words:30s} {shown(mean(fresh[name], fresh.patient))}")
    print("Old findings, painted into masks: rise of the oracle's score")
    print(f"  {'':16s} {'before':>26s} {'after':>26s} {'difference':>26s}")
    for finding, part in [*kept.groupby("finding", sort=False), ("all", kept)]:
        cells = [part.before, part.after, part.after - part.before]
        print(f"  {finding:16s}" + "".join(f"{shown(mean(values, part.patient)):>27s}" for values in cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["archive", "measure"])
    parser.add_argument("path")
    parser.add_argument("--films", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    OPTIONS = parser.parse_args()
    torch.set_num_threads(1)
    if OPTIONS.what == "archive":
        write_archive(Path(OPTIONS.path))
    else:
        measure_all(OPTIONS.path, OPTIONS.films)
