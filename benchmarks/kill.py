"""Kills a running synthesis again and again, and compares what it ends at with an uninterrupted run, byte for byte.

python benchmarks/kill.py --kills 50 --plan runs/demo/plan.csv --manifest runs/demo/phantom/metadata.csv \
    --attention runs/demo/checkpoints/attention.ckpt --inpainting runs/demo/checkpoints/inpainting.ckpt

Each attempt is a process of its own, killed by SIGKILL after a random share of the time that a whole run takes. When
one ends before it is killed, its folder is compared and the next one begins in an empty folder.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import lightning as L

from cxrsynth.files import sha256_file
from cxrsynth.synthesis.datamodule import SynthesisDataModule
from cxrsynth.synthesis.task import SynthesisTask
from cxrsynth.synthesis.writer import SynthesisWriter


def paint(options: argparse.Namespace, out: Path) -> None:
    anything = {"min_ncc": -1.0, "smallest": 0.0, "largest": 1.0}
    task = SynthesisTask(options.attention, options.inpainting, steps=options.steps, threads=1, **anything)
    data = SynthesisDataModule(options.plan, options.manifest, str(out), num_workers=options.workers)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", callbacks=[SynthesisWriter(str(out))], **quiet)
    trainer.predict(task, data, return_predictions=False)


def start(options: argparse.Namespace, out: Path) -> int:
    """A process that paints; torch has computed nothing here yet, so that a fork is safe."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            paint(options, out)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def ended(child: int) -> int | None:
    """The exit status, or None while it runs."""
    process, status = os.waitpid(child, os.WNOHANG)
    return None if process == 0 else os.waitstatus_to_exitcode(status)


def hashes(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): sha256_file(p) for p in sorted(out.rglob("*")) if p.is_file()}


def check(out: Path, whole: dict[str, str]) -> None:
    found = hashes(out)
    if found != whole:
        wrong = sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
        raise SystemExit(f"{len(wrong)} files differ, {wrong[0]} first; kept in {out}")


def run(options: argparse.Namespace, folder: Path) -> None:
    begin = time.monotonic()
    _, status = os.waitpid(start(options, folder / "whole"), 0)
    if status:
        raise SystemExit("the uninterrupted run failed; run `cxrsynth predict` with the same files to see why")
    whole, lasts = hashes(folder / "whole"), time.monotonic() - begin
    draw, kills, rounds, out = random.Random(options.seed), 0, 0, folder / "killed"
    done = []
    while kills < options.kills:
        child, moment = start(options, out), time.monotonic() + draw.uniform(0, lasts)
        while (status := ended(child)) is None and time.monotonic() < moment:
            time.sleep(0.002)
        if status is None:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            done.append(len(list((out / "provenance").glob("*.json"))))
            continue
        if status:
            raise SystemExit(f"a run failed with status {status}; its folder is {out}")
        check(out, whole)
        rounds += 1
        shutil.rmtree(out)
    os.waitpid(start(options, out), 0)
    check(out, whole)
    print(f"{kills} kills in {rounds + 1} runs of {len(whole)} files ({lasts:.1f} s uninterrupted): all files equal")
    print(f"images recorded when it was killed: {', '.join(map(str, done))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("plan", "manifest", "attention", "inpainting"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    folder = Path(tempfile.mkdtemp())
    run(parser.parse_args(), folder)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
