"""Trains a tiny inpainter in two processes; writes every step's loss, what a rank holds, and a checkpoint."""

import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from test_inpainting_task import TINY, Batches

from cxrsynth.inpainting import InpaintingTask


class Trace(L.Callback):
    """Keeps the loss of every step."""

    def __init__(self):
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder, kind, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ.get("LOCAL_RANK", 0))
    sharded = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)
    task, trace = InpaintingTask(["left", "right"], **TINY, fields=["view", "sex", "age"]), Trace()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = L.Trainer(
        **quiet,
        max_epochs=1,
        devices=2,
        strategy=sharded if kind == "fsdp" else "ddp",
        callbacks=[trace],
        use_distributed_sampler=False,
        enable_checkpointing=False,
    )
    trainer.fit(task, torch.utils.data.DataLoader(Batches(), None), torch.utils.data.DataLoader(Batches(), None))
    trainer.save_checkpoint(folder / f"{kind}.ckpt")
    weight = task.velocity.unet.conv_in.conv.weight
    held = weight.to_local().numel() if kind == "fsdp" else weight.numel()
    (folder / f"{kind}_{rank}.json").write_text(
        json.dumps({"losses": trace.losses, "held": held, "all": weight.numel(), "type": type(weight.data).__name__})
    )
