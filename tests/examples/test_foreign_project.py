import importlib.util
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from cxrsynth.attention import GLoRI
from cxrsynth.attention.task import GLoRITask
from cxrsynth.encoder import ViT

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "foreign_project.py"
QUIET = ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"]
ARGUMENTS = ["--config", str(EXAMPLE.with_suffix(".yaml")), *(f"--trainer.{name}=false" for name in QUIET)]
SIZES = {"image_size": 64, "patch_size": 8, "dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("foreign_project", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_modules_train_inside_a_foreign_lightning_module(example):
    task = example.SpotFinder(ViT(**SIZES), GLoRI(1, 32, 2, 32, 2, 64))
    trainer = L.Trainer(max_steps=2, accelerator="cpu", **dict.fromkeys(QUIET, False))
    trainer.fit(task, example.BrightSpots(16))
    assert trainer.global_step == 2
    assert task.eval()(torch.rand(2, 1, 64, 64)).shape == (2, 1)


def test_a_foreign_command_line_builds_them_by_class_path(example):
    cli = example.main([*ARGUMENTS, "--trainer.max_steps=4", "--trainer.accelerator=cpu"])
    assert cli.trainer.global_step == 4
    assert torch.isfinite(cli.trainer.callback_metrics["loss"])
    assert cli.model.eval()(torch.rand(2, 1, 64, 64)).shape == (2, 1)


def test_a_foreign_command_line_loads_the_authors_files(example, shared, tmp_path):
    golden = shared / "golden" / "chexfound_small"
    if not golden.is_dir():
        pytest.skip("no golden files")
    parts = {
        "encoder": {"class_path": "cxrsynth.encoder.load_encoder", "init_args": {"num_heads": 4}},
        "head": {"class_path": "cxrsynth.attention.load_glori", "init_args": {}},
    }
    for (name, part), file in zip(parts.items(), ("teacher_checkpoint.pth", "glori.pth"), strict=True):
        part["init_args"]["path"] = str(golden / file)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"model": {name: part}}))
    given = [argument for name in parts for argument in ("--config", str(tmp_path / f"{name}.yaml"))]
    cli = example.build(given)
    assert cli.model.head.queries.shape == (5, 64)
    assert cli.model.encoder.config["depth"] == 8
    assert cli.model(torch.rand(1, 1, 64, 96)).shape == (1, 5)


def test_a_task_is_named_by_class_path_in_a_foreign_command_line(example):
    cli = example.LightningCLI(
        L.LightningModule,
        Dictionaries,
        subclass_mode_model=True,
        run=False,
        save_config_callback=None,
        args={
            "model": {
                "class_path": "cxrsynth.attention.task.GLoRITask",
                "init_args": {
                    "findings": ["Spot"],
                    "architecture": SIZES,
                    "image_size": 64,
                    "blocks": 2,
                    "dim": 32,
                    "num_heads": 2,
                    "ffn_hidden": 32,
                },
            },
            "trainer": {"max_steps": 2, "accelerator": "cpu", **dict.fromkeys(QUIET, False)},
        },
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    assert isinstance(cli.model, GLoRITask)
    assert cli.trainer.global_step == 2


class Dictionaries(L.LightningDataModule):
    """Somebody else's data in the form that the tasks take."""

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        batch = {"image": torch.rand(4, 1, 64, 64), "target": torch.ones(4, 1), "image_id": list("abcd")}
        return torch.utils.data.DataLoader([batch, batch], batch_size=None)
