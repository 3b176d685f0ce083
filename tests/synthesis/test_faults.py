"""What goes wrong while a plan is painted: one clear sentence, nothing half-written, and the same command goes on."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lightning as L
import pandas as pd
import pytest

from cxrsynth import cli
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file
from cxrsynth.synthesis.datamodule import GroupDataset, SynthesisDataModule
from cxrsynth.synthesis.plan import read_plan, write_plan
from cxrsynth.synthesis.task import SynthesisTask
from cxrsynth.synthesis.writer import SynthesisWriter

ROOT = Path(__file__).resolve().parents[2]
ANYTHING = {"steps": 1, "min_ncc": -1.0, "smallest": 0.0, "largest": 1.0, "threads": 1}


def paint(archive: Path, out: Path, workers: int = 0, plan: Path | None = None, **settings) -> dict[str, str]:
    """Run the engine; the hash of every file it leaves."""
    checkpoints = [str(archive / f"{name}.ckpt") for name in ("attention", "inpainting")]
    task = SynthesisTask(*checkpoints, **{**ANYTHING, **settings})
    manifest = str(archive / "phantom" / "metadata.csv")
    data = SynthesisDataModule(str(plan or archive / "plan.csv"), manifest, str(out), num_workers=workers)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(**options, callbacks=[SynthesisWriter(str(out))]).predict(task, data, return_predictions=False)
    return hashes(out)


def hashes(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): sha256_file(p) for p in sorted(out.rglob("*")) if p.is_file()}


def records(out: Path) -> dict[str, dict]:
    return {r["id"]: r for r in map(json.loads, (out / "provenance.jsonl").read_text().splitlines())}


@pytest.fixture(scope="module")
def whole(archive, tmp_path_factory) -> dict[str, str]:
    """An uninterrupted run."""
    return paint(archive, tmp_path_factory.mktemp("whole"))


def test_a_full_disk_stops_the_run_and_leaves_whole_files(archive, whole, tmp_path, monkeypatch):
    fsync, written = os.fsync, []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("cxrsynth.files.os.fsync", full)
        with pytest.raises(UserError, match=r"No space left.*free space"):
            paint(archive, tmp_path)
    left = hashes(tmp_path)
    assert 0 < len(left) < len(whole)
    assert left.items() <= whole.items()  # whole, and no temporary file
    assert paint(archive, tmp_path) == whole


def test_a_loader_process_that_dies_stops_the_run(archive, whole, tmp_path, monkeypatch, capsys):
    def killed(self, index: int):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(GroupDataset, "__getitem__", killed)
        with pytest.raises(RuntimeError, match="DataLoader worker") as stop:
            paint(archive, tmp_path, workers=1)
    assert hashes(tmp_path).items() <= whole.items()
    assert paint(archive, tmp_path) == whole

    def fails(arguments):
        raise stop.value

    monkeypatch.setattr(cli, "lightning_cli", fails)
    with pytest.raises(SystemExit):
        cli.main(["predict"])
    assert "num_workers" in capsys.readouterr().err


def test_a_source_that_comes_back_is_painted(archive, whole, tmp_path):
    shutil.copytree(archive, tmp_path / "archive")
    plan = read_plan(archive / "plan.csv")
    names = pd.read_csv(archive / "phantom" / "metadata.csv").set_index("image_id")["path"]
    file = tmp_path / "archive" / "phantom" / names[plan["source_id"][0]]
    content = file.read_bytes()
    file.unlink()
    paint(tmp_path / "archive", tmp_path / "out")
    refused = pd.read_csv(tmp_path / "out" / "refused.csv")
    assert plan["id"][0] in set(refused["id"])
    assert refused["refused"].str.startswith("unreadable: cannot read image").all()
    file.write_bytes(content)
    assert paint(tmp_path / "archive", tmp_path / "out") == whole


def test_tables_are_written_when_only_they_are_missing(archive, whole, tmp_path):
    paint(archive, tmp_path)
    (tmp_path / "provenance.jsonl").unlink()
    for name in ("images/.syn00000.png.abc.part", ".provenance.parquet.abc.part"):
        (tmp_path / name).write_bytes(b"left by a killed process")
    assert paint(archive, tmp_path) == whole


def with_alternate(archive: Path, folder: Path) -> tuple[Path, str, str]:
    """An archive in which the first exemplar of a row that has more is damaged; the row's id and that exemplar."""
    shutil.copytree(archive, folder)
    plan = read_plan(archive / "plan.csv")
    name, first = plan.loc[plan["alternates"] != "", ["id", "exemplar_id"]].iloc[0]
    names = pd.read_csv(archive / "phantom" / "metadata.csv").set_index("image_id")["path"]
    (folder / "phantom" / names[first]).write_bytes(b"no image")
    write_plan(folder / "plan.csv", plan[(plan["exemplar_id"] != first) | (plan["id"] == name)])
    return folder, name, first


def test_the_next_exemplar_is_tried_and_the_record_says_why(archive, tmp_path):
    damaged, name, first = with_alternate(archive, tmp_path / "archive")
    made = paint(damaged, tmp_path / "out")
    record = records(tmp_path / "out")[name]
    assert record["exemplar_id"] == record["alternates"].split("|")[0]
    assert record["planned"] == {"exemplar_id": first}
    assert [t["exemplar_id"] for t in record["tried"]] == [first]
    assert "unreadable" in record["tried"][0]["refused"]
    image = tmp_path / "out" / "images" / f"{name}.png"
    before = image.stat().st_mtime_ns
    assert paint(damaged, tmp_path / "out") == made
    assert image.stat().st_mtime_ns == before


def test_every_exemplar_is_tried_before_a_row_is_refused(archive, tmp_path):
    paint(archive, tmp_path, min_ncc=0.9999)
    for path in (tmp_path / "provenance").glob("*.json"):
        record = json.loads(path.read_text())
        tried = [t["exemplar_id"] for t in record.get("tried", [])]
        planned = record.get("planned", record)["exemplar_id"]
        assert [*tried, record["exemplar_id"]] == [planned, *filter(None, record["alternates"].split("|"))]


def test_kept_registrations_are_used_and_change_no_byte(archive, whole, tmp_path, monkeypatch):
    def without_cache(files: dict[str, str]) -> dict[str, str]:
        return {name: digest for name, digest in files.items() if not name.startswith("kept")}

    cache = str(tmp_path / "kept")
    assert paint(archive, tmp_path / "a", cache=cache) == whole

    def never(*arguments, **options):
        raise AssertionError("registered again")

    monkeypatch.setattr("cxrsynth.synthesis.carrying.align_patients", never)
    assert paint(archive, tmp_path / "b", cache=cache) == whole
    with pytest.raises(AssertionError, match="registered again"):
        paint(archive, tmp_path / "c", cache=cache, pull="chest")


def test_several_findings_are_asked_together(archive, tmp_path):
    plan = read_plan(archive / "plan.csv")
    write_plan(tmp_path / "plan.csv", plan.assign(findings="Effusion|Nodule"))
    paint(archive, tmp_path / "out", plan=tmp_path / "plan.csv")
    for record in records(tmp_path / "out").values():
        assert record["condition"] == {"findings": ["Effusion", "Nodule"]}
    assert set(pd.read_csv(tmp_path / "out" / "synthetic.csv")["labels"]) == {"Effusion|Nodule"}


RANKS = """
import json, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import lightning as L
from cxrsynth.synthesis.datamodule import SynthesisDataModule
from cxrsynth.synthesis.task import SynthesisTask
from cxrsynth.synthesis.writer import SynthesisWriter
archive, settings = Path({archive!r}), json.loads({settings!r})
for ranks in (2, 3):
    out = str(Path({out!r}) / str(ranks))
    task = SynthesisTask(str(archive / "attention.ckpt"), str(archive / "inpainting.ckpt"), **settings)
    data = SynthesisDataModule(str(archive / "plan.csv"), str(archive / "phantom/metadata.csv"), out)
    trainer = L.Trainer(accelerator="cpu", devices=ranks, strategy="ddp_fork", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, callbacks=[SynthesisWriter(out)])
    trainer.predict(task, data, return_predictions=False)
"""


def test_two_and_three_processes_make_the_same_files(archive, whole, tmp_path):
    """Three groups: with three processes each paints one."""
    script = RANKS.format(folder=str(ROOT), archive=str(archive), settings=json.dumps(ANYTHING), out=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=environment, timeout=280)
    assert hashes(tmp_path / "2") == whole
    assert hashes(tmp_path / "3") == whole


def test_killed_runs_end_at_the_same_files(archive, tmp_path):
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "kill.py"), "--kills", "3", "--steps", "1"]
    files = [f"--{name}={archive / name}.ckpt" for name in ("attention", "inpainting")]
    files += [f"--plan={archive / 'plan.csv'}", f"--manifest={archive / 'phantom' / 'metadata.csv'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *files], check=False, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "3 kills" in done.stdout
    assert "all files equal" in done.stdout


def test_mutated_inputs_are_read_or_refused():
    """A short run of the fuzzing script, over every kind of input."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "fuzz.py"), "--cases", "300", "--seed", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
