"""Trains a tiny encoder and writes every step's loss; run alone or, through Lightning, in two processes."""

import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader

from cxrsynth.encoder.task import DINOTask

STEPS, BATCH = 6, 8


class Trace(L.Callback):
    def __init__(self):
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_index):
        self.losses.append(float(outputs["loss"]))


def batches(rank: int = 0, ranks: int = 1) -> list[dict]:
    made = []
    for step in range(STEPS):
        images = torch.rand(BATCH, 1, 40, 40, generator=torch.Generator().manual_seed(step))
        mine = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
        ids = [f"{step}_{i}" for i in range(BATCH)]
        made.append({"image": images[mine], "image_id": ids[mine]})
    return made


def make_task(**changes) -> DINOTask:
    torch.manual_seed(3)
    arguments = {
        "image_size": 32,
        "patch_size": 8,
        "dim": 32,
        "depth": 2,
        "num_heads": 2,
        "ffn": "mlp",
        "layer_scale": None,
        "drop_path": 0.0,
        "local_size": 16,
        "local_crops": 2,
        "prototypes": 32,
        "head_hidden": 32,
        "bottleneck": 16,
        "lr": 1e-2,
    }
    return DINOTask(**arguments | changes)


def train(task: DINOTask, epochs: int, rank: int = 0, ranks: int = 1, **trainer) -> tuple[L.Trainer, list[float]]:
    trace = Trace()
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    fitted = L.Trainer(
        max_epochs=epochs,
        callbacks=[trace],
        use_distributed_sampler=False,
        devices=ranks,
        **{"enable_checkpointing": False} | settings | trainer,
    )
    ckpt_path = task.__dict__.pop("resume_from", None)
    fitted.fit(task, DataLoader(batches(rank, ranks), batch_size=None), ckpt_path=ckpt_path)
    return fitted, trace.losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    _, losses = train(make_task(), epochs=1, rank=rank, ranks=2, strategy="ddp")
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(losses))
