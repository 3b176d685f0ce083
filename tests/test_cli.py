"""The command line as a user meets it, judged by its words and its exit status."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from cxrsynth import pipeline
from cxrsynth.cli import COMMANDS, TRAINER_COMMANDS, USAGE, _nested, main
from cxrsynth.data.phantom import write_phantom
from cxrsynth.encoder import ViT

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = str(ROOT / "lightning_configs" / "quickstart.yaml")


def refused(capsys, arguments: list[str], *words: str) -> None:
    """One sentence on stderr and exit status 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("cxrsynth: ")
    for word in words:
        assert word in sentence


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_phantom(folder, count=24, size=64)
    return folder


def test_help_names_every_command():
    assert all(f"\n  {name} " in USAGE for name in (*COMMANDS, *TRAINER_COMMANDS))


def test_doctor_in_a_process_of_its_own_names_versions_and_kernels():
    command = [sys.executable, "-m", "cxrsynth", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in ("torch", "lightning", "kernels"))


def inspected(capsys, *arguments: str) -> dict[str, str]:
    main(["encoder", "inspect", *arguments])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    return {key: value for key, value in (re.split(r"\s{2,}", line) for line in lines)}


def test_inspect_tells_an_encoder_from_its_file(capsys, tmp_path):
    encoder = ViT(image_size=28, patch_size=14, dim=64, depth=2, num_heads=1, registers=3, ffn="mlp", layer_scale=None)
    state = {
        f"backbone.{key.replace('blocks.', 'blocks.0.')}": value.half() for key, value in encoder.state_dict().items()
    }
    file = tmp_path / "teacher.pth"
    torch.save({"teacher": state}, file)
    found = inspected(capsys, str(file))
    assert found["layout"] == "CheXFound teacher, blocks in 1 chunks"
    sizes = ("image size", "patch size", "dim", "depth", "num heads", "registers", "feed-forward", "feed-forward width")
    assert [found[key] for key in sizes] == ["28", "14", "64", "2", "1", "3", "mlp", "256"]
    assert (found["layer scale"], found["stored as"]) == ("no", "float16")
    assert int(found["parameters"].replace(",", "")) == sum(p.numel() for p in encoder.parameters())
    assert found["sha256 of teacher.pth"] == hashlib.sha256(file.read_bytes()).hexdigest()
    # the call that is advised works as it stands
    namespace: dict = {}
    exec(f"import cxrsynth.encoder; loaded = {found['load with']}", namespace)
    assert namespace["loaded"].config["registers"] == 3


def test_inspect_asks_for_heads_that_the_width_does_not_tell(capsys, tmp_path):
    torch.save(ViT(image_size=16, patch_size=8, dim=48, depth=1, num_heads=4).state_dict(), tmp_path / "release.pth")
    assert inspected(capsys, str(tmp_path / "release.pth"))["num heads"] == "unknown: give --num_heads"
    found = inspected(capsys, str(tmp_path / "release.pth"), "--num_heads", "4")
    assert (found["layout"], found["num heads"]) == ("DINOv2 release, flat blocks", "4")
    assert found["load with"].endswith("num_heads=4)")


def test_inspect_tells_heads_apart_from_encoders(capsys, shared):
    found = inspected(capsys, str(shared / "golden" / "chexfound_small" / "glori.pth"))
    assert (found["layout"], found["classes"], found["cat cls"]) == ("GLoRI head", "5", "False")


def test_inspect_refuses_anything_else(capsys, tmp_path):
    refused(capsys, ["encoder", "inspect", str(tmp_path / "none.pth")], "none.pth", "give the path")
    (tmp_path / "text.pth").write_text("no weights")
    refused(capsys, ["encoder", "inspect", str(tmp_path / "text.pth")], "text.pth", "plain tensors")
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "other.pth")
    refused(capsys, ["encoder", "inspect", str(tmp_path / "other.pth")], "holds no encoder", "fc.weight")


def test_an_unknown_command_is_refused(capsys):
    refused(capsys, ["paint"], "'paint'", "choose one of")


@pytest.mark.parametrize("config", ["quickstart", "real", "paper"])
def test_a_missing_manifest_is_refused(capsys, tmp_path, config):
    path = str(ROOT / "lightning_configs" / f"{config}.yaml")
    refused(capsys, ["run", "--config", path, "--manifest", "nowhere.csv", "--run", str(tmp_path)], "nowhere.csv")


def test_an_unknown_finding_is_refused_before_anything_is_trained(capsys, archive, tmp_path):
    options = ["--manifest", str(archive / "metadata.csv"), "--run", str(tmp_path / "run"), "--findings", "[Efusion]"]
    refused(capsys, ["run", "--config", QUICKSTART, *options], "Efusion")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_manifest_that_lacks_a_column_is_refused(capsys, tmp_path):
    (tmp_path / "bad.csv").write_text("image_id,labels\na,Mass\n")
    options = ["--manifest", str(tmp_path / "bad.csv"), "--run", str(tmp_path / "run")]
    refused(capsys, ["run", "--config", QUICKSTART, *options], "'path'")


def test_a_patient_in_two_splits_is_refused(capsys, archive, tmp_path):
    text = (archive / "metadata.csv").read_text().splitlines()
    header = text[0].split(",")
    assert "split" not in header
    patient = header.index("patient_id")
    rows = [line.split(",") for line in text[1:3]]
    folder = tmp_path / "archive"
    folder.mkdir()
    for row, split in zip(rows, ("train", "test"), strict=True):
        row[patient] = "same"
        row.append(split)
    lines = [",".join([*header, "split"]), *(",".join(row) for row in rows)]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    options = ["--manifest", str(folder / "metadata.csv"), "--run", str(tmp_path / "run")]
    refused(capsys, ["run", "--config", QUICKSTART, *options], "'same'", "two splits")


def test_an_output_folder_that_cannot_be_written_is_refused(capsys, archive, tmp_path):
    (tmp_path / "file").write_text("in the way")  # a folder cannot be made under a file, not even by root
    options = ["--manifest", str(archive / "metadata.csv"), "--run", str(tmp_path / "file" / "run")]
    refused(capsys, ["run", "--config", QUICKSTART, *options], "cannot write")


def test_a_report_of_nothing_is_refused(capsys, tmp_path):
    refused(capsys, ["report", str(tmp_path)], str(tmp_path))


def test_fit_and_predict_save_their_configurations_side_by_side(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = [
        *("--config", str(ROOT / "lightning_configs" / "classification.yaml")),
        *("--model.init_args.network", "efficientnet-b0"),
        *("--data.init_args.manifest", str(archive / "metadata.csv")),
        *("--data.init_args.size", "64", "--data.init_args.batch_size", "8"),
        *("--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        *("--trainer.logger.init_args.save_dir", "logs"),
    ]
    main(["fit", *common])
    (saved,) = tmp_path.rglob("fit.yaml")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    before = saved.read_bytes()
    # the checkpoint's hyperparameters win over the command line: b0 it was trained as, b0 it stays
    again = [*common, "--model.init_args.network", "efficientnet-b2", "--ckpt_path", str(checkpoint)]
    main(["predict", *again, "--return_predictions", "false"])
    assert list(tmp_path.rglob("predict.yaml"))
    assert saved.read_bytes() == before


def nested(*arguments: str) -> dict[str, dict]:
    """The mappings that are handed to the parser in place of options with dots."""
    kept = _nested(list(arguments), pipeline.run)
    return {name[2:]: json.loads(value) for name, _, value in (a.partition("=") for a in kept) if value}


def test_an_option_with_dots_changes_one_entry_and_keeps_the_others():
    given = yaml.safe_load(Path(QUICKSTART).read_text())["attention"]
    changed = nested(
        "--config", QUICKSTART, "--attention.trainer.max_epochs", "16", "--attention.data.augment=5e-1", "--run", "x"
    )
    assert changed == {
        "attention": {
            **given,
            "trainer": {**given["trainer"], "max_epochs": 16},
            "data": {**given["data"], "augment": 0.5},
        }
    }


def test_a_later_config_and_a_whole_mapping_come_before_what_has_dots(tmp_path):
    later = tmp_path / "later.yaml"
    later.write_text("plan: {count: 7}\n")
    assert nested("--config", QUICKSTART, "--config", str(later), "--plan.group_size", "4") == {
        "plan": {"count": 7, "group_size": 4}
    }
    assert nested("--config", QUICKSTART, "--plan", "{count: 3}", "--plan.rule=until") == {
        "plan": {"count": 3, "rule": "until"}
    }


def test_dots_inside_a_number_are_refused(capsys):
    refused(capsys, ["run", "--config", QUICKSTART, "--plan.count.x", "4"], "--plan.count.x", "'count'")


def test_a_misspelled_part_of_a_section_is_refused(capsys, tmp_path):
    arguments = ["run", "--config", QUICKSTART, "--run", str(tmp_path), "--attention.trianer.max_epochs", "1"]
    refused(capsys, arguments, "attention has 'trianer'", "trainer")
