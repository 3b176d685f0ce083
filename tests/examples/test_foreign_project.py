import importlib.util
from pathlib import Path

import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "foreign_project.py"


def test_the_modules_train_inside_another_lightning_project():
    spec = importlib.util.spec_from_file_location("foreign_project", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    quiet = ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"]
    cli = example.main(
        [*(f"--trainer.{name}=false" for name in quiet), "--trainer.max_steps=4", "--trainer.accelerator=cpu"]
    )
    assert cli.trainer.global_step == 4
    assert torch.isfinite(cli.trainer.callback_metrics["loss"])
    logits = cli.model.eval()(torch.rand(2, 1, 64, 64))
    assert logits.shape == (2, 1)
