"""The command line as a user meets it, judged by its words and its exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from cxrsynth.cli import COMMANDS, TRAINER_COMMANDS, USAGE, main
from cxrsynth.data.phantom import write_phantom

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
