"""Trains a tiny encoder with its weights sharded over two processes; writes every step's loss and a checkpoint."""

import json
import os
import sys
from pathlib import Path

import torch
from dino_trace import make_task, train
from lightning.pytorch.strategies import ModelParallelStrategy

if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    folder = Path(sys.argv[1])
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)
    trainer, losses = train(make_task(checkpointing=True), epochs=1, rank=rank, ranks=2, strategy=strategy)
    weight = trainer.lightning_module.student["backbone"].blocks[0].attn.qkv.weight
    trainer.save_checkpoint(folder / "sharded.ckpt")
    result = {
        "losses": losses,
        "type": type(weight.data).__name__,
        "held": weight.to_local().numel(),
        "all": weight.numel(),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
