"""Where the time of a synthesis goes, and whether its memory grows with the number of images.

python benchmarks/synthesis_throughput.py --images 48 --memory 1000 > benchmarks/results/synthesis_throughput.txt

First an inpainter of the shipped ones' shape (64 pixel windows, 10 midpoint steps, guidance 2) on films of 256 px,
in groups of 8: seconds an image by stage, the share of time in which the sampler works, and registration in parts of
it. Then untrained tiny networks on films of 64 pixels: resident memory after every tenth of the images.
Nothing is trained: what networks have learned does not change what they cost.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from cxrsynth.attention.task import GLoRITask
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.phantom import write_phantom
from cxrsynth.inpainting.task import InpaintingTask
from cxrsynth.synthesis import carrying, datamodule
from cxrsynth.synthesis.clock import Clock
from cxrsynth.synthesis.datamodule import SynthesisDataModule
from cxrsynth.synthesis.plan import make_plan, write_plan
from cxrsynth.synthesis.task import SynthesisTask
from cxrsynth.synthesis.writer import SynthesisWriter

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
ANYTHING = {"min_ncc": -1.0, "smallest": 0.0, "largest": 1.0}


class Watch(Callback):
    """Wall time of the loop, and resident memory by images made."""

    def __init__(self) -> None:
        self.memory: list[tuple[int, float]] = []
        self.seconds, self.made = 0.0, 0

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        self.begin = time.perf_counter()

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:  # noqa: D102
        self.made += len(outputs)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append((self.made, pages * resource.getpagesize() / 2**20))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        self.seconds = time.perf_counter() - self.begin


def clocked(clock: Clock, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        with clock(stage):
            return function(*arguments, **options)

    return timed


def save(task: L.LightningModule, path: Path) -> str:
    trainer = L.Trainer(**QUIET)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return str(path)


def archive(folder: Path, size: int, count: int, findings: list[str], images: int) -> dict[str, str]:
    metadata = write_phantom(folder / "phantom", count=count, size=size, seed=0)
    manifest = Manifest.load(metadata)
    splits = manifest.table[["image_id", "patient_id"]].assign(split="train")
    most = -(-2 * images // int(manifest.healthy.sum()))
    plan = make_plan(manifest, splits, findings, count=images, max_per_source=most, cross_view=True)
    return {"plan": str(write_plan(folder / "plan.csv", plan)), "manifest": str(metadata), "out": str(folder / "out")}


def paint(task: SynthesisTask, where: dict[str, str], clock: Clock) -> Watch:
    watch, writer = Watch(), SynthesisWriter(where["out"])
    writer._write = clocked(clock, "writing", writer._write)  # type: ignore[method-assign]
    trainer = L.Trainer(**QUIET, callbacks=[writer, watch])
    trainer.predict(task, SynthesisDataModule(**where), return_predictions=False)
    return watch


def throughput(folder: Path, images: int) -> None:
    findings = ["Effusion", "Consolidation", "Pneumothorax", "Nodule", "Cardiomegaly", "Atelectasis"]
    shape = {"size": 64, "patch": 2, "channels": [64, 96, 128], "attention": [False, False, False]}
    vit = {"image_size": 96, "patch_size": 8, "dim": 64, "depth": 2, "num_heads": 4, "ffn": "mlp"}
    glori = GLoRITask(findings, image_size=96, architecture=vit, blocks=2, dim=64, num_heads=4, ffn_hidden=128)
    where = archive(folder, 256, max(60, images), findings, images)
    inpainter = save(InpaintingTask(findings, **shape), folder / "inpainting.ckpt")
    task = SynthesisTask(save(glori, folder / "attention.ckpt"), inpainter, **ANYTHING)
    clock = Clock()
    align, read = carrying.align_patients, datamodule.read_group
    carrying.align_patients = clocked(clock, "registration", align)
    datamodule.read_group = clocked(clock, "reading", read)
    watch = paint(task, where, clock)
    carrying.align_patients, datamodule.read_group = align, read
    seconds = {**clock.seconds, **task.clock.seconds}
    threads = torch.get_num_threads()
    print(f"{images} images, {threads} threads, {watch.seconds:.1f} s: {watch.made / watch.seconds:.2f} a second")
    for stage in ("reading", "registration", "carrying", "sampling", "writing"):
        note = " (with registration, maps and regions)" if stage == "carrying" else ""
        print(f"  {stage:<14}{1e3 * seconds[stage] / images:8.1f} ms an image{note}")
    print(f"the sampler works {100 * seconds['sampling'] / watch.seconds:.1f} % of the time;", end=" ")
    print(f"registration takes {100 * seconds['registration'] / seconds['sampling']:.1f} % of the sampler's time")


def memory(folder: Path, images: int) -> None:
    findings = ["Effusion", "Nodule"]
    vit = {"image_size": 64, "patch_size": 16, "dim": 32, "depth": 4, "num_heads": 2}
    glori = save(
        GLoRITask(findings, image_size=64, architecture=vit, dim=32, num_heads=2, ffn_hidden=32), folder / "a.ckpt"
    )
    inpainter = InpaintingTask(findings, size=32, channels=[16, 16], attention=[False, False])
    where = archive(folder, 64, 60, findings, images)
    watch = paint(SynthesisTask(glori, save(inpainter, folder / "i.ckpt"), steps=1, **ANYTHING), where, Clock())
    print(f"{images} images of tiny networks, {watch.seconds:.1f} s")
    for tenth in range(1, 11):
        made, mebibytes = watch.memory[len(watch.memory) * tenth // 10 - 1]
        print(f"  after {made:>6} images {mebibytes:8.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--memory", type=int, default=1000)
    options = parser.parse_args()
    for measure, images in ((throughput, options.images), (memory, options.memory)):
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), images)


if __name__ == "__main__":
    main()
