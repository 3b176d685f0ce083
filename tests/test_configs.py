"""Every YAML: the tasks' are trained for a step, the pipelines' are checked argument by argument."""

from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from cxrsynth.anatomy.task import SegmentationTask
from cxrsynth.attention.task import GLoRITask
from cxrsynth.autoencoder import AutoencoderTask
from cxrsynth.classification.task import ClassificationTask
from cxrsynth.cli import main
from cxrsynth.data import CXRDataModule, Manifest
from cxrsynth.data.phantom import write_phantom
from cxrsynth.encoder import ViT
from cxrsynth.encoder.task import DINOTask
from cxrsynth.inpainting.distil import DistilTask
from cxrsynth.inpainting.task import InpaintingTask
from cxrsynth.synthesis.task import SynthesisTask

CONFIGS = Path(__file__).resolve().parents[1] / "lightning_configs"
PIPELINES = ("quickstart", "rare", "real", "paper")
STUDIES = ("study", "study_quick")
STAGES = {
    "encoder": DINOTask,
    "attention": GLoRITask,
    "inpainting": InpaintingTask,
    "classification": ClassificationTask,
}
# Trained apart: the pipelines use the weights of the package, and an inpainter that follows maps and findings.
GUIDED = ("inpainting_guided", "inpainting_nih", "inpainting_new_finding")
TASKS = {
    **STAGES,
    "anatomy": SegmentationTask,
    "autoencoder": AutoencoderTask,
    **{name: InpaintingTask for name in GUIDED},
    "inpainting_few_steps": DistilTask,
}
SMALL_GUIDED = {"size": 32, "channels": [16, 32, 32], "head_channels": 16, "vocabulary": 300, "start": None}
SMALL_VIT = {"patch_size": 16, "dim": 32, "depth": 2, "num_heads": 2}
OVERRIDES = {
    "encoder": {**SMALL_VIT, "image_size": 64, "local_size": 32, "prototypes": 16, "head_hidden": 16, "bottleneck": 8},
    "attention": {"encoder": None, "architecture": {**SMALL_VIT, "image_size": 64}, "image_size": 64, "blocks": 2},
    "inpainting": {"size": 32, "channels": [16, 32, 32]},
    "classification": {"network": "compact"},
    **{name: {**SMALL_GUIDED, "findings": ["Effusion", "Nodule"]} for name in GUIDED},
    "inpainting_few_steps": {"batch": 4},
    "anatomy": {"size": 64, "channels": [4, 8]},
    "autoencoder": {"size": 32, "channels": [8, 16], "norm_groups": 4},
}


def test_every_yaml_is_known_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {
        *PIPELINES,
        *STUDIES,
        *TASKS,
        "synthesize",
        "inpaint",
        "maps",
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_phantom(folder, count=40, size=64)
    return folder / "metadata.csv"


@pytest.fixture(scope="module")
def maps(archive, tmp_path_factory) -> Path:
    """Attention maps of an untrained task."""
    from cxrsynth.attention.maps import collect_maps

    config = yaml.safe_load((CONFIGS / "attention.yaml").read_text())["model"]["init_args"]
    task = GLoRITask(**{**config, **OVERRIDES["attention"]}).eval()
    out = tmp_path_factory.mktemp("maps") / "maps.npz"
    collect_maps(task, CXRDataModule(str(archive), size=64, findings=task.findings), out)
    return out


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """An inpainter that was not trained."""
    config = yaml.safe_load((CONFIGS / "inpainting.yaml").read_text())["model"]["init_args"]
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(InpaintingTask(**{**config, **OVERRIDES["inpainting"]}))
    path = tmp_path_factory.mktemp("teacher") / "inpainting.ckpt"
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_from_its_yaml(name, archive, maps, teacher, tmp_path, monkeypatch):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    config["model"]["init_args"] |= OVERRIDES[name]
    config["data"]["init_args"] |= {"manifest": str(archive), "size": 64, "batch_size": 4, "num_workers": 0}
    if config["data"]["init_args"].get("maps", "masks") != "masks":
        config["data"]["init_args"]["maps"] = str(maps)
    if name in GUIDED:
        config["data"]["init_args"]["findings"] = config["model"]["init_args"]["findings"]
    if name == "inpainting_few_steps":
        config["model"]["init_args"]["teacher"] = str(teacher)
    if name == "anatomy":
        config["data"]["init_args"]["extra_manifest"] = None
    if config["trainer"].get("val_check_interval"):
        config["trainer"]["val_check_interval"] = 1
    config["trainer"] |= {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "limit_val_batches": 1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", "config.yaml"])
    (checkpoint, *_) = tmp_path.rglob("*.ckpt")
    assert list(tmp_path.rglob("fit.yaml"))
    if name == "inpainting_few_steps":  # its checkpoint is an inpainter's, and yet the training goes on from it
        main(["fit", "--config", "config.yaml", "--trainer.max_steps", "2", "--ckpt_path", str(checkpoint)])
        steps = [torch.load(path, weights_only=True)["global_step"] for path in tmp_path.rglob("*.ckpt")]
        assert max(steps) == 2


def test_maps_are_predicted_from_the_yaml(archive, tmp_path, monkeypatch):
    """With a checkpoint, whose settings win; what is needed of the authors' files is in tests/attention."""
    monkeypatch.chdir(tmp_path)
    sizes = {**SMALL_VIT, "image_size": 64}
    task = GLoRITask(["Nodule", "Effusion"], architecture=sizes, image_size=64, blocks=2, dim=32, ffn_hidden=32)
    trainer = L.Trainer(logger=False, barebones=True)
    trainer.strategy.connect(task)
    trainer.save_checkpoint("attention.ckpt")
    data = ["--data.manifest", str(archive), "--data.size", "64"]
    config = ["--config", str(CONFIGS / "maps.yaml"), "--trainer.accelerator", "cpu"]
    main(["predict", *config, *data, "--ckpt_path", "attention.ckpt"])
    assert len(list(Path("runs/maps/maps").glob("*/*.png"))) == 80
    table = pd.read_csv("runs/maps/probabilities.csv", index_col="image_id")
    assert table.shape == (40, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"attention.ckpt", "runs"}


@pytest.mark.parametrize(
    ("name", "parameters"), [("tiny", None), ("small", None), ("base", None), ("large", 304_630_016)]
)
def test_sizes_of_the_encoder_go_on_from_224_to_512(capsys, name, parameters):
    files = [CONFIGS / "encoder.yaml", CONFIGS / "vit" / f"{name}.yaml", CONFIGS / "vit" / "continue_512.yaml"]
    arguments = [argument for file in files for argument in ("--config", str(file))]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments, "--print_config"])
    assert stop.value.code == 0
    given = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    sizes = {key: given[key] for key in ("image_size", "patch_size", "dim", "depth", "num_heads", "registers", "ffn")}
    assert (given["image_size"], given["local_size"]) == (512, 144)
    assert given["init"]
    with torch.device("meta"):
        encoder = ViT(**sizes)
    assert encoder.dim == 64 * sizes["num_heads"]  # what `load_encoder` assumes of published files
    assert parameters in (None, sum(p.numel() for p in encoder.parameters()))


@pytest.mark.parametrize("name", PIPELINES)
def test_the_arguments_of_a_pipeline_are_those_of_its_tasks(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    sections = {**STAGES, "synthesis": SynthesisTask}
    filled = {"attention": {"encoder": "x"}, "synthesis": {"attention": "x", "inpainting": "x"}}
    for section, task in sections.items():
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(task, "model")
        model = {**config[section]["model"], **filled.get(section, {})}
        if section not in ("encoder", "synthesis"):
            model["findings"] = config["findings"]
        parser.parse_object({"model": model})
        if section in STAGES:
            parser = ArgumentParser(exit_on_error=False)
            parser.add_class_arguments(CXRDataModule, "data")
            parser.parse_object({"data": {"manifest": "x", **config[section]["data"]}})


def test_the_findings_of_the_real_pipeline_are_the_real_archives(shared):
    config = yaml.safe_load((CONFIGS / "real.yaml").read_text())
    manifest = Manifest.load(shared / "cxr" / "metadata.csv").select(views=config["views"], sites=config["sites"])
    targets = manifest.targets(config["findings"])
    assert (targets.nansum(0) >= 30).all()
    assert len(config["findings"]) >= 3


@pytest.mark.parametrize("name", STUDIES)
def test_the_arguments_of_a_study_are_known(name):
    from cxrsynth.study.arms import make_arm
    from cxrsynth.study.study import study

    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(study)
    parser.parse_object(config)
    assert {"real", "duplicates", "synthetic"} <= {make_arm(arm).name for arm in config["arms"]}
    for section, task in (("model", ClassificationTask), ("data", CXRDataModule)):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(task, section)
        fixed = {"findings": ["A"]} if section == "model" else {"manifest": "x"}
        parser.parse_object({section: {**config["classification"][section], **fixed}})
