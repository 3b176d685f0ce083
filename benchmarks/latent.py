"""An inpainter that works on latents: is it exact, does it paint what is asked, is it sharp, is it faster?

python benchmarks/latent.py runs/latent > benchmarks/results/latent.txt

In pieces, each of which finds in the folder what it needs: `--only autoencoder codec`, then `inpainter effects`, then
`times`. Simulated films of 128 pixels; windows of 32, their latents 8 x 8 x 4. Region: the mask of a training patient's
finding, laid on a healthy film of a validation or test patient. `codec` puts the latents of another healthy film into
the region, as an inpainter would that paints without a fault. `effects` lets the oracle, which measures findings from
pixels, score the untouched source and the painted film. Intervals are bootstrap intervals over source patients.
"""

import argparse
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.autoencoder import AutoencoderTask
from cxrsynth.autoencoder.figures import high_frequency_power
from cxrsynth.callbacks import PlainProgress
from cxrsynth.data import CXRDataModule
from cxrsynth.data.phantom import write_phantom
from cxrsynth.data.phantom.oracle import measure
from cxrsynth.evaluation.bootstrap import bootstrap
from cxrsynth.evaluation.effects import effects_table
from cxrsynth.inpainting import Condition, InpaintingTask, load_inpainter
from cxrsynth.inpainting.space import Latents, Scene
from cxrsynth.inpainting.window import windows_around

PIECES = ["autoencoder", "codec", "inpainter", "effects", "times"]
FINDINGS = ["Effusion", "Consolidation", "Pneumothorax", "Cardiomegaly"]
SIZE = 32
CODEC: dict[str, Any] = {"size": SIZE, "channels": [16, 32, 32], "latent_channels": 4, "norm_groups": 8}
UNET: dict[str, Any] = {
    "size": SIZE,
    "channels": [64, 96],
    "attention": [False, True],
    "head_channels": 32,
    "bf16": True,
}
FIELD: dict[str, Any] = {
    **UNET,
    "regions": {"attention": 0.6, "blob": 0.2, "box": 0.2},
    "share": [1.0, 1.0],
    "times": "logit_normal",
    "time_mean": -0.3,
    "time_spread": 1.2,
    "ema_decay": 0.99,
    "guidance": 3.0,
}


class PlainDecode(Latents):
    """Puts back what the decoder makes of the flow's end, its own error included."""

    @torch.no_grad()
    def leave(self, end: Tensor, scene: Scene) -> Tensor:
        """See `Space`."""
        own = self._encode(scene.image)
        return (2 * self.autoencoder.decode(torch.where(scene.region > 0, end, own)) - 1).clamp(-1, 1)


def train(task: L.LightningModule, data: CXRDataModule, steps: int, path: Path) -> None:
    """Train from a seed and keep the checkpoint."""
    started = time.process_time()
    trainer = L.Trainer(
        **{"max_steps": steps, "max_epochs": -1, "logger": False, "enable_checkpointing": False},
        **{"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0},
        gradient_clip_val=1.0,
        callbacks=[PlainProgress(path.stem)],
    )
    with redirect_stdout(sys.stderr):
        trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(path)
    minutes = (time.process_time() - started) / 60
    path.with_suffix(".txt").write_text(f"{steps} steps in {minutes:.1f} CPU minutes\n")


def border_step(image: Tensor, region: Tensor) -> Tensor:
    """Mean step from a pixel inside the region to its neighbour outside, `[B]`."""
    steps, count = torch.zeros(len(image)), torch.zeros(len(image))
    for axis in (2, 3):
        crosses = region.diff(dim=axis) != 0
        steps += (image.diff(dim=axis).abs() * crosses).sum((1, 2, 3))
        count += crosses.sum((1, 2, 3))
    return steps / count


def ring(region: Tensor) -> Tensor:
    """Eight pixels around the region."""
    return F.max_pool2d(region, 17, 1, 8) - region


def cases(data: CXRDataModule, count: int) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """Healthy films of held-out patients, a region and a finding for each, and their patients."""
    rng = np.random.default_rng(0)
    patients = dict(zip(data.split_table["image_id"], data.split_table["patient_id"], strict=True))
    healthy, ids = [], []
    for loader in (data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            chosen = ~(batch["target"] == 1).any(1)
            healthy += list(batch["image"][chosen])
            ids += [image for image, kept in zip(batch["image_id"], chosen.tolist(), strict=True) if kept]
    masks: dict[str, list[Tensor]] = {name: [] for name in FINDINGS}
    for batch in data.train_dataloader():
        for place, which in zip(batch["map"], batch["finding"].tolist(), strict=True):
            if which >= 0 and place.any():
                masks[FINDINGS[which]].append(F.max_pool2d((place > 0.5).float()[None], 5, 1, 2)[0])
    order = rng.permutation(len(ids))[:count]
    images, regions, asked, who = [], [], [], []
    for name in FINDINGS:
        for index in order:
            images.append(healthy[index])
            regions.append(masks[name][int(rng.integers(len(masks[name])))])
            asked.append(name)
            who.append(str(patients[ids[index]]))
    return torch.stack(images), torch.stack(regions), asked, who


def paint_all(task: InpaintingTask, chosen: Any, healthy: bool) -> Tensor:
    """The cases, painted in batches of eight; `healthy` asks for no finding instead."""
    images, regions, asked, _ = chosen
    made = []
    for start in range(0, len(images), 8):
        part = slice(start, start + 8)
        names = [[] if healthy else [name] for name in asked[part]]
        condition = Condition.from_names(names, FINDINGS)
        seeds = range(start, start + len(names))
        made.append(task.inpaint(images[part], regions[part], condition, seeds=seeds))
    return torch.cat(made)


def scored(images: Tensor) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in measure(images.numpy()).items() if name in FINDINGS}


def print_interval(name: str, values: Tensor, patients: list[str]) -> None:
    array = values.double().numpy()
    interval = bootstrap(lambda weights: (weights @ array / weights.sum(axis=1))[:, None], patients)[0]
    print(f"  {name:58s} {interval.estimate:6.3f} [{interval.low:.3f}, {interval.high:.3f}]")


def print_quality(made: Tensor, images: Tensor, regions: Tensor, patients: list[str]) -> None:
    """Exactness, fine detail and seam of results."""
    exact = ((made == images) | (regions > 0)).flatten(1).all(1)
    print(f"  {int(exact.sum())} of {len(made)} equal the source outside the region")
    sharp = high_frequency_power(made, regions) / high_frequency_power(made, ring(regions))
    print_interval("fine detail inside / around", sharp, patients)
    step = border_step(made, regions) / border_step(images, regions)
    print_interval("step across the border / the source's", step, patients)


def print_codec(folder: Path, data: CXRDataModule, count: int) -> None:
    """Figures of the autoencoder, and of its two ways back into the film."""
    print(f"autoencoder: {(folder / 'autoencoder.txt').read_text().strip()}")
    task = AutoencoderTask.load_from_checkpoint(folder / "autoencoder.ckpt", weights_only=True)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with redirect_stdout(sys.stderr):
        figures = L.Trainer(**quiet).test(task, dataloaders=data.test_dataloader(), verbose=False)[0]
    print("reconstruction of windows of test films: " + ", ".join(f"{k[5:]} {v:.3f}" for k, v in figures.items()))
    images, regions, _, patients = cases(data, count)
    windows = windows_around(regions)
    crops, donors = (windows.crop(films, SIZE) for films in (images, images.roll(1, 0)))
    inside, places = windows.crop_region(regions, SIZE), windows.coordinates(SIZE)
    change, plain = (kind(task.autoencoder, {}) for kind in (Latents, PlainDecode))
    scene = change.enter(2 * crops - 1, inside, places)
    end = change.enter(2 * donors - 1, torch.ones_like(inside), places).state
    results = {
        "pixels of another film": donors,
        "latents of another film, change put back": (change.leave(end, scene) + 1) / 2,
        "latents of another film, decoded image put back": (plain.leave(end, scene) + 1) / 2,
        "own latents, decoded image put back": (plain.leave(scene.state, scene) + 1) / 2,
    }
    print(f"{len(images)} regions on {count} healthy films of held-out patients")
    untouched = high_frequency_power(images, regions) / high_frequency_power(images, ring(regions))
    print_interval("untouched: fine detail inside / around", untouched, patients)
    for name, painted in results.items():
        print(name)
        print_quality(windows.paste(painted, images, regions), images, regions, patients)


def print_effects(folder: Path, data: CXRDataModule, count: int) -> None:
    """What the oracle sees of a trained inpainter's paintings."""
    print(f"inpainter: {(folder / 'inpainting.txt').read_text().strip()}")
    task = load_inpainter(folder / "inpainting.ckpt")
    chosen = cases(data, count)
    images, regions, asked, patients = chosen
    before = scored(images)
    for name, healthy in (("the finding asked for", False), ("asked for healthy", True)):
        made = paint_all(task, chosen, healthy)
        print(name)
        print_quality(made, images, regions, patients)
        after = scored(made)
        rows = [
            (str(i), wanted, patients[i], "oracle", column, before[column][i], after[column][i])
            for i, wanted in enumerate(asked)
            for column in FINDINGS
        ]
        columns = ["id", "finding", "source_patient", "scorer", "scored", "before", "after"]
        table = effects_table(pd.DataFrame(rows, columns=columns))
        for row in table[table.scored == table.finding].itertuples():
            print(
                f"  {row.finding:16s} oracle, log odds {row.before:6.2f} -> {row.after:6.2f}   "
                f"{row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}]  {row.verdict}"
            )
        others = table[table.scored != table.finding]
        print(
            f"  other findings: {(others.verdict == 'rises').sum()} of {len(others)} rise, "
            f"mean {others.difference.mean():+.2f}"
        )


def print_times(folder: Path, repeats: int = 3) -> None:
    """CPU seconds of a window, latents beside pixels, the same untrained UNet and steps."""
    tasks = {
        "latents 8 x 8": InpaintingTask(FINDINGS, **UNET, latent=str(folder / "autoencoder.ckpt")).eval(),
        "pixels, blocks of 2 (16 x 16)": InpaintingTask(FINDINGS, **UNET, patch=2).eval(),
        "pixels, blocks of 4 (8 x 8)": InpaintingTask(FINDINGS, **UNET, patch=4).eval(),
        "pixels (32 x 32)": InpaintingTask(FINDINGS, **UNET).eval(),
    }
    image, region = torch.rand(1, 1, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE)
    where, asked = torch.zeros(1, 2, SIZE, SIZE), Condition.from_names([["Effusion"]], FINDINGS)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            started = time.process_time()
            task.paint(image, region, where, asked, seeds=[0], steps=10)
            seconds[name].append(time.process_time() - started)
    own = np.median(seconds["latents 8 x 8"])
    print("seconds a window of 32 x 32, midpoint, 10 steps, guidance, one thread:")
    for name, values in seconds.items():
        print(f"  {name:32s} {np.median(values):6.2f}   {np.median(values) / own:4.1f} times the latents'")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=PIECES, default=PIECES)
    parser.add_argument("--films", type=int, default=600)
    parser.add_argument("--codec-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--count", type=int, default=12, help="healthy films to paint on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = options.folder
    manifest = folder / "phantom" / "metadata.csv"
    if not manifest.exists():
        write_phantom(manifest.parent, count=options.films, size=128, healthy=0.4, severity=(0.5, 1.0))
    data = CXRDataModule(
        str(manifest), size=128, findings=FINDINGS, batch_size=16, sampling="balanced", healthy_share=0.4, maps="masks"
    )
    data.setup("fit")
    if "autoencoder" in options.only:
        L.seed_everything(0, verbose=False)
        train(AutoencoderTask(**CODEC), data, options.codec_steps, folder / "autoencoder.ckpt")
    if "codec" in options.only:
        print_codec(folder, data, options.count)
    if "inpainter" in options.only:
        L.seed_everything(0, verbose=False)
        task = InpaintingTask(FINDINGS, **FIELD, latent=str(folder / "autoencoder.ckpt"))
        train(task, data, options.steps, folder / "inpainting.ckpt")
    if "effects" in options.only:
        print_effects(folder, data, options.count)
    if "times" in options.only:
        print_times(folder)


if __name__ == "__main__":
    main()
