"""Training steps of the inpainter of paper.yaml on a GPU: images a second and peak memory, option by option.

python benchmarks/training_gpu.py > benchmarks/results/training_gpu.txt
"""

import argparse
import time
import warnings

import lightning as L
import torch
from torch.utils.data import DataLoader

from cxrsynth.inpainting import InpaintingTask

NETWORK = {"size": 256, "channels": [64, 128, 256, 256], "attention": [False, False, True, True]}
OPTIONS = {
    "float32": {},
    "bf16": {"bf16": True},
    "bf16, compile": {"bf16": True, "compile": True},
    "bf16, recompute": {"bf16": True, "recompute": True},
}


class Clock(L.Callback):
    """Seconds of the steps after the first ones."""

    def __init__(self, skipped: int):
        self.skipped, self.begin, self.seconds, self.steps = skipped, 0.0, 0.0, 0

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):  # noqa: D102
        torch.cuda.synchronize()
        if batch_idx < self.skipped:
            self.begin = time.perf_counter()
        else:
            self.seconds, self.steps = time.perf_counter() - self.begin, batch_idx - self.skipped + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=list(OPTIONS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    size, findings = NETWORK["size"], ["Effusion", "Nodule"]
    batch = {
        "image": torch.rand(options.batch, 1, 512, 512),
        "target": torch.ones(options.batch, 2),
        "map": torch.rand(options.batch, 1, 512, 512),
        "finding": torch.arange(options.batch) % 2,
    }
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {options.batch} windows of {size} pixels a step")
    first = None
    for name in options.only:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        task, clock = InpaintingTask(findings=findings, **NETWORK, **OPTIONS[name]), Clock(5)
        trainer = L.Trainer(
            accelerator="gpu", devices=1, max_steps=options.steps + 5, callbacks=[clock], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(task, DataLoader([batch] * (options.steps + 5), batch_size=None))
        speed = clock.steps * options.batch / clock.seconds
        first = first or speed
        print(
            f"{name:20s} {speed:8.1f} images a second   {speed / first:5.2f} x   "
            f"{torch.cuda.max_memory_allocated() / 2**30:5.1f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
