"""Does GLoRI training on cached features need more memory for a larger archive?

python benchmarks/attention_memory.py runs/attention_memory > benchmarks/results/attention_memory.txt

Each archive is trained on for two epochs in a process of its own: the first computes the features and writes them, the
second reads them. Images are the same few small files under many names, which changes nothing that is measured.
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from PIL import Image

from cxrsynth.attention.task import GLoRITask
from cxrsynth.data import CXRDataModule

SIZE, FILES, BATCH = 32, 20, 64
FINDINGS = ["Mass", "Nodule"]
VIT = {"image_size": SIZE, "patch_size": 8, "dim": 64, "depth": 2, "num_heads": 4, "ffn": "mlp"}


def peak() -> float:
    """Largest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_archive(folder: Path, count: int) -> Path:
    """A manifest of `count` images."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(FILES):
        Image.fromarray(generator.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)).save(folder / f"{number}.png")
    rows = pd.DataFrame({"image_id": [f"image_{index}" for index in range(count)]})
    rows["path"] = [f"{index % FILES}.png" for index in range(count)]
    rows["labels"] = generator.choice([*FINDINGS, "No Finding"], count)
    rows["patient_id"] = rows["image_id"]
    rows.to_csv(folder / "metadata.csv", index=False)
    return folder / "metadata.csv"


def train(folder: Path, count: int) -> None:
    """Train once; print images, size of the features, memory before and its peak."""
    torch.set_num_threads(1)
    L.seed_everything(0)
    data = CXRDataModule(str(write_archive(folder, count)), SIZE, FINDINGS, BATCH, cache_gib=0.0)
    task = GLoRITask(
        FINDINGS,
        architecture=dict(VIT),
        image_size=SIZE,
        blocks=2,
        dim=64,
        num_heads=4,
        ffn_hidden=64,
        learning_rates=[1e-4, 1e-3],
        cache=str(folder / "features"),
    )
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    data.setup("fit")
    before = peak()  # with the archive's tables
    L.Trainer(accelerator="cpu", max_epochs=2, logger=False, num_sanity_val_steps=0, **quiet).fit(task, data)
    sizes = [file.stat().st_size for file in folder.rglob("*.npy")]
    print(f"RESULT {len(sizes)} {sum(sizes) / 2**20:.1f} {before:.0f} {peak():.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 2000, 20000])
    parser.add_argument("--alone", action="store_true", help="train here, on the one archive given")
    options = parser.parse_args()
    if options.alone:
        train(options.folder, options.images[0])
        return
    print(f"{'images':>8s} {'with features':>14s} {'features':>12s} {'before training':>16s} {'peak':>10s}")
    for count in options.images:
        command = [sys.executable, __file__, str(options.folder / str(count)), "--images", str(count), "--alone"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        kept, size, before, most = next(x for x in done.stdout.splitlines() if x.startswith("RESULT")).split()[1:]
        print(f"{count:8d} {kept:>14s} {size:>8s} MiB {before:>12s} MiB {most:>6s} MiB", flush=True)


if __name__ == "__main__":
    main()
