"""`cxrsynth run` from an empty folder to the page, at the smallest size at which every stage still does its work."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cxrsynth.classification.task import ClassificationTask
from cxrsynth.cli import main
from cxrsynth.files import sha256_file
from cxrsynth.inpainting import InpaintingTask, load_inpainter
from cxrsynth.inpainting.warm_start import take_over
from cxrsynth.inpainting.weights_file import find_inpainter
from cxrsynth.pipeline import _fingerprint, _from_scratch
from cxrsynth.run_folder import Run
from cxrsynth.stages import STAGES as STAGES_OF_RUN

ROOT = Path(__file__).resolve().parents[1]
STAGES = [
    *("archive", "split", "encoder", "attention", "localisation", "inpainting", "scorer", "plan"),
    *("synthesis", "classification", "classification_synthetic", "effects", "report"),
]


def tiny(folder: Path) -> str:
    """quickstart.yaml with an archive and trainings a hundred times shorter."""
    config = yaml.safe_load((ROOT / "lightning_configs" / "quickstart.yaml").read_text())
    config["run"] = str(folder / "run")
    config["phantom"] |= {"count": 90, "size": 64}
    config["encoder"]["model"] |= {"image_size": 64, "local_size": 32, "prototypes": 16}
    config["attention"]["model"] |= {"image_size": 64}
    config["inpainting"]["model"] |= {"size": 32, "channels": [16, 32, 32], "head_channels": 16, "start": None}
    for section in ("encoder", "attention", "inpainting", "classification", "scorer"):
        config[section]["data"] |= {"size": 64, "batch_size": 8}
        config[section]["trainer"] = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}
    config["plan"] = {"count": 6, "group_size": 4}
    config["synthesis"]["model"] |= {"steps": 2, "min_ncc": -1.0, "smallest": 0.0, "largest": 1.0}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    main(["run", "--config", tiny(folder)])
    return folder / "run"


def test_the_run_folder_holds_what_the_design_says(run):
    names = ["config.yaml", "splits.csv", "plan.csv", "provenance.jsonl", "refused.csv", "report.html", "report.json"]
    assert all((run / name).is_file() for name in names)
    checkpoints = {path.stem for path in (run / "checkpoints").iterdir()}
    assert checkpoints == {"encoder", "attention", "inpainting", "scorer", "classification", "classification_synthetic"}
    assert {path.stem for path in (run / "stages").glob("*.json")} == set(STAGES)


def test_every_planned_image_is_there_and_exact_outside_its_region(run):
    records = [json.loads(line) for line in (run / "provenance.jsonl").read_text().splitlines()]
    assert len(records) == 6
    for record in records:
        source = np.array(Image.open(run / "phantom" / record["source_path"]))
        image, region = (np.array(Image.open(run / record[name])) for name in ("image", "region"))
        assert (image[region == 0] == source[region == 0]).all()


def test_no_synthetic_image_and_no_source_leaves_the_training_patients(run):
    splits = pd.read_csv(run / "splits.csv").set_index("image_id")["split"]
    plan = pd.read_csv(run / "plan.csv")
    assert set(splits[plan["source_id"]]) | set(splits[plan["exemplar_id"]]) == {"train"}
    for arm in ("real", "synthetic"):
        assert set(splits[pd.read_csv(run / "study" / f"predictions_{arm}.csv")["image_id"]]) == {"test"}


def test_both_classifiers_take_the_same_number_of_steps(run):
    steps = [json.loads((run / "stages" / f"{name}.json").read_text())["figures"]["steps"] for name in STAGES[9:11]]
    assert steps == [4, 4]


def test_a_second_run_skips_every_stage_and_changes_nothing(run, capsys):
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "config.yaml"}
    main(["run", "--config", str(run.parent / "tiny.yaml")])
    assert capsys.readouterr().out.count("done before") == len(STAGES)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_lost_image_is_made_again_to_the_same_bytes(run, tmp_path, capsys):
    image = sorted((run / "images").glob("*.png"))[2]
    before = sha256_file(image)
    image.unlink()
    main(["run", "--config", str(run.parent / "tiny.yaml")])
    assert sha256_file(image) == before
    assert capsys.readouterr().out.count("done before") >= 10


def test_what_a_stage_made_counts_for_those_after_it(run, tmp_path):
    """A newer version may make other images from the same settings."""
    shutil.copytree(run / "stages", tmp_path / "stages")
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"manifest": str(run / "phantom" / "metadata.csv")}
    state, last = Run(tmp_path, config), next(s for s in STAGES_OF_RUN if s.name == "classification_synthetic")
    before = _fingerprint(state, last)
    record = state.record("synthesis")
    record["outputs"]["synthetic.csv"] = "other"
    state.stage_file("synthesis").write_text(json.dumps(record))
    assert before == json.loads((run / "stages" / f"{last.name}.json").read_text())["fingerprint"]
    assert _fingerprint(state, last) != before


def test_the_predict_command_makes_the_same_images(run, tmp_path, monkeypatch):
    out = tmp_path / "again"
    config = yaml.safe_load((ROOT / "lightning_configs" / "synthesize.yaml").read_text())
    settings = {"steps": 2, "min_ncc": -1.0, "smallest": 0.0, "largest": 1.0}
    paths = {name: str(run / "checkpoints" / f"{name}.ckpt") for name in ("attention", "inpainting")}
    record = json.loads((run / "provenance.jsonl").read_text().splitlines()[0])
    config["model"]["init_args"] |= {**settings, **paths, "solver": record["solver"], "guidance": record["guidance"]}
    config["model"]["init_args"]["baseline"] = record["baseline"]
    config["data"]["init_args"] |= {
        "plan": str(run / "plan.csv"),
        "manifest": str(run / "phantom" / "metadata.csv"),
        "out": str(out),
        "splits": str(run / "splits.csv"),
    }
    config["trainer"]["callbacks"][0]["init_args"]["out"] = str(out)
    config["trainer"] |= {"accelerator": "auto", "enable_progress_bar": False}
    (tmp_path / "synthesize.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    main(["predict", "--config", str(tmp_path / "synthesize.yaml")])
    made = {path.name: sha256_file(path) for path in (out / "images").iterdir()}
    assert made == {path.name: sha256_file(path) for path in (run / "images").iterdir()}


def test_a_training_that_was_cut_off_goes_on_from_its_last_checkpoint(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    config = yaml.safe_load((run.parent / "tiny.yaml").read_text())
    config["run"] = str(tmp_path / "run")
    config["classification"]["trainer"]["max_steps"] = 6
    (tmp_path / "longer.yaml").write_text(yaml.safe_dump(config))
    step = ClassificationTask.training_step

    def power_cut(self, batch, batch_index):
        if self.trainer.global_step == 5:
            raise RuntimeError("power cut")
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            main(["run", "--config", str(tmp_path / "longer.yaml")])
    seen = []

    def count(self, batch, batch_index):
        seen.append(self.trainer.global_step)
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", count)
        main(["run", "--config", str(tmp_path / "longer.yaml")])
    assert seen == [4, 5, *range(6)]  # the rest of the first classifier, then all of the second
    record = json.loads((tmp_path / "run" / "stages" / "classification.json").read_text())
    assert record["figures"]["steps"] == 6


def test_from_scratch_drops_the_start_and_takes_its_own_settings():
    section = yaml.safe_load((ROOT / "lightning_configs" / "quickstart.yaml").read_text())["inpainting"]
    fresh = _from_scratch(section)
    assert section["model"]["start"] == "phantom"
    assert fresh["model"]["start"] is None
    assert fresh["trainer"]["max_steps"] > section["trainer"]["max_steps"]
    assert fresh["model"]["channels"] == section["model"]["channels"]
    assert fresh["data"] == section["data"]
    assert set(fresh) == {"model", "data", "trainer"}


def test_the_demo_s_start_fits_its_network_and_its_files_are_in_the_fingerprint(tmp_path):
    config = yaml.safe_load((ROOT / "lightning_configs" / "quickstart.yaml").read_text())
    known = load_inpainter("phantom")
    task = InpaintingTask(config["findings"], **config["inpainting"]["model"])
    names = list(known.hparams["findings"])
    assert take_over(task.velocity, known.average.module.state_dict(), config["findings"], names) == []
    (stage,) = [stage for stage in STAGES_OF_RUN if stage.name == "inpainting"]
    assert stage.inputs(Run(tmp_path, config)) == [find_inpainter("phantom")]
    config["inpainting"] = _from_scratch(config["inpainting"])
    assert stage.inputs(Run(tmp_path, config)) == []


def test_synthesize_makes_the_runs_plan_again_in_a_folder_of_its_own_and_resume_goes_on_with_it(run, tmp_path, capsys):
    out = tmp_path / "more"
    main(["synthesize", "--run", str(run), "--out", str(out)])
    made = {path.name: sha256_file(path) for path in (out / "images").iterdir()}
    assert made == {path.name: sha256_file(path) for path in (run / "images").iterdir()}
    files = {path: sha256_file(path) for path in out.rglob("*") if path.is_file() and path.name != "config.yaml"}
    first, *_, last = sorted((out / "images").iterdir())  # of two groups; a group is painted again as a whole
    time = last.stat().st_mtime_ns
    first.unlink()
    (out / "synthetic.csv").unlink()
    main(["resume", str(out)])
    assert {path: sha256_file(path) for path in files} == files
    assert last.stat().st_mtime_ns == time
    main(["verify", str(out)])
    assert "WRONG" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["synthesize", "--run", str(run), "--out", str(out), "--count", "9"])
    assert "holds something else" in capsys.readouterr().err


def test_resume_makes_what_a_run_lacks(run, tmp_path, capsys):
    image = sorted((run / "images").glob("*.png"))[1]
    before = sha256_file(image)
    image.unlink()
    main(["resume", str(run)])
    assert sha256_file(image) == before
    assert capsys.readouterr().out.count("done before") >= 10
    main(["verify", str(run)])


def test_a_number_of_accepted_images_makes_the_plan_grow_and_keeps_what_was_planned(run, tmp_path, monkeypatch):
    plans = []

    def paint(state, folder):
        plans.append(pd.read_csv(folder / "plan.csv"))
        return {"accepted": len(plans[-1]) // 2}

    monkeypatch.setattr("cxrsynth.synthesize.paint_plan", paint)
    main(["synthesize", "--run", str(run), "--out", str(tmp_path / "out"), "--accepted", "10", "--seed", "5"])
    assert [len(plan) for plan in plans] == [10, 22]
    pd.testing.assert_frame_equal(plans[1][:10], plans[0])
    monkeypatch.setattr("cxrsynth.synthesize.paint_plan", lambda state, folder: {"accepted": 0})
    with pytest.raises(SystemExit):
        main(["synthesize", "--run", str(run), "--out", str(tmp_path / "none"), "--accepted", "2"])


def test_more_images_from_few_healthy_ones_are_asked_for_by_name(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cxrsynth.synthesize.paint_plan", lambda state, folder: {"accepted": 300})
    command = ["synthesize", "--run", str(run), "--out", str(tmp_path / "out"), "--count", "300"]
    with pytest.raises(SystemExit):
        main(command)
    assert "max_per_source" in capsys.readouterr().err
    main([*command[:4], str(tmp_path / "more"), "--count", "300", "--max_per_source", "100"])
    plan = pd.read_csv(tmp_path / "more" / "plan.csv")
    assert len(plan) == 300
    assert 4 < plan["source_id"].value_counts().max() <= 100
    main(["resume", str(tmp_path / "more")])


def test_a_run_that_is_not_trained_cannot_synthesize(run, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "run" / "config.yaml")
    with pytest.raises(SystemExit):
        main(["synthesize", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert "cxrsynth resume" in capsys.readouterr().err
