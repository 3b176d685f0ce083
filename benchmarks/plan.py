"""Planning time and memory by size of the archive: made-up tables, half of the images healthy, five hospitals.

python benchmarks/plan.py 10000 100000 1000000 > benchmarks/results/plan.txt

Each size is planned in a process of its own, whose peak memory is what is printed. `count` is a tenth of the archive.
Seconds are of one core's time; those "by wall" depend on what else the machine does.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cxrsynth.data.labels import NIH_14
from cxrsynth.data.manifest import Manifest
from cxrsynth.synthesis.plan import make_plan, write_plan


def archive(images: int) -> pd.DataFrame:
    """A manifest of `images` rows: two images a patient, findings at the shares of the NIH set's order of magnitude."""
    draw = np.random.default_rng(0)
    shares = np.geomspace(0.1, 0.002, len(NIH_14))
    present = draw.random((images, len(NIH_14))) < shares
    names = np.array(NIH_14)
    patients = np.arange(images) // 2
    return pd.DataFrame(
        {
            "image_id": [f"img{k:08d}" for k in range(images)],
            "path": [f"{k % 100:02d}/img{k:08d}.png" for k in range(images)],
            "labels": ["|".join(names[row]) or "No Finding" for row in present],
            "patient_id": [f"p{k:07d}" for k in patients],
            "view": np.where(draw.random(images) < 0.6, "PA", "AP"),
            "sex": np.where(draw.random(images // 2 + 1) < 0.5, "F", "M")[patients],
            "age": draw.integers(18, 95, images // 2 + 1)[patients].astype(str),
            "site": np.array(["A", "B", "C", "D", "E"])[draw.integers(0, 5, images // 2 + 1)[patients]],
        }
    )


def plan_one(images: int, folder: Path) -> None:
    path = folder / f"{images}.parquet"
    archive(images).to_parquet(path, index=False)
    os.sync()
    begin = time.process_time()
    manifest = Manifest.load(path)
    read = time.process_time()
    split = np.where(np.arange(images) // 2 % 10 < 8, "train", "test")  # a split is not what is measured
    splits = manifest.table[["image_id", "patient_id"]].assign(split=split)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, wall = time.process_time(), time.perf_counter()
    options = {"co_occurring": True, "balance": ["sex", "age"], "max_per_patient": 4, "alternates": 2}
    plan = make_plan(manifest, splits, list(NIH_14), count=images // 10, **options)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    write_plan(folder / "plan.csv", plan)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{images:>10,d} {len(plan):>9,d} {read - begin:>10.1f} {seconds:>9.1f} {wall:>8.1f} "
        f"{1e6 * seconds / images:>13.1f} {before:>12.0f} {peak:>9.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int, nargs="+")
    parser.add_argument("--folder", type=Path, help="(used by the script itself)")
    options = parser.parse_args()
    if options.folder is not None:
        plan_one(options.images[0], options.folder)
        return
    print("    images   planned  reading, s   plan, s  by wall  us an image  MiB before  MiB peak", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for images in options.images:
            subprocess.run([sys.executable, __file__, str(images), "--folder", folder], check=True)


if __name__ == "__main__":
    main()
