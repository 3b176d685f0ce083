"""A small encoder trained on real films with one CPU core, and what the same head learns on an untrained one.

python benchmarks/encoder_real.py ../shared/cxr --out runs/encoder_real > benchmarks/results/encoder_real.txt
    --arms "pretrained, end to end" "pretrained, frozen" "untrained, frozen"   (for the committed table)

Split by patient: all patients with a box, and 45 % of those with reference predictions, are test patients. The
encoder is pretrained (DINO) on the training patients of all sites, then GLoRI is trained on NIH's: on top of the frozen
encoder, on top of a frozen untrained one, and end to end from both. A training that was cut off goes on when started
again.
"""

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from cxrsynth.anatomy import chest_field, segment
from cxrsynth.attention.localisation import METHODS, localise
from cxrsynth.attention.maps import collect_maps, finding_map, images_of
from cxrsynth.attention.region import region_from_map
from cxrsynth.attention.task import GLoRITask
from cxrsynth.callbacks import PlainProgress
from cxrsynth.data import CXRDataModule, Manifest
from cxrsynth.data.split import make_splits, write_splits
from cxrsynth.encoder.task import DINOTask
from cxrsynth.evaluation.bootstrap import Interval, bootstrap
from cxrsynth.evaluation.metrics import auroc, metric_columns

SIZE = 128
TEST_SHARE = 0.45
FINDINGS = [
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia"),
    *("Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
]
VIT: dict[str, Any] = {
    "image_size": SIZE,
    "patch_size": 8,
    "dim": 96,
    "depth": 3,
    "num_heads": 4,
    "ffn": "mlp",
    "layer_scale": 1.0,
    "attention_scale": 0.01,
    "drop_path": 0.0,
    "contrast": "standardise",
    "position_init": "sincos",
}
DINO: dict[str, Any] = {
    "local_size": 48,
    "local_crops": 4,
    "prototypes": 1024,
    "head_hidden": 256,
    "bottleneck": 64,
    "lr": 0.002,
    "patch_lr": 1.0,
}
HEAD: dict[str, Any] = {
    "findings": FINDINGS,
    "image_size": SIZE,
    "blocks": 3,
    "dim": 96,
    "num_heads": 4,
    "ffn_hidden": 192,
    "sharpness": 2.5,
    "prior": 0.12,
    "weight_decay": 0.02,
}
ARMS = {  # name: (pretrained, finetune)
    "pretrained, end to end": (True, "full"),
    "pretrained, frozen": (True, "none"),
    "untrained, frozen": (False, "none"),
    "untrained, end to end": (False, "full"),
}
PAIRS = [("pretrained, frozen", "untrained, frozen"), ("pretrained, end to end", "untrained, end to end")]


def split(folder: Path, out: Path) -> Path:
    """Write splits.csv; see the top of this file."""
    manifest = Manifest.load(folder / "metadata.csv")
    read = pd.read_csv(folder / "reference_predictions.csv", dtype={"image_id": str}).image_id
    table = manifest.table
    boxed = set(table.patient_id[table.image_id.isin(manifest.boxes.image_id)])
    known = sorted(set(table.patient_id[table.image_id.isin(read)]))
    drawn = {p for p in known if int(hashlib.sha256(p.encode()).hexdigest()[:8], 16) < TEST_SHARE * 16**8}
    manifest.table["split"] = np.where(table.patient_id.isin(boxed | drawn), "test", "")
    return write_splits(make_splits(manifest, (0.85, 0.15, 0.0)), out / "splits.csv")


def train(task: L.LightningModule, data: CXRDataModule, folder: Path, monitor: str | None, **trainer: Any) -> Path:
    """The best (by `monitor`) or last checkpoint of a training, which is skipped or continued where it stands."""
    done = folder / "done.ckpt"
    if done.exists():
        return done
    start = time.monotonic()
    kept = [ModelCheckpoint(folder, "last", enable_version_counter=False)]
    if monitor:
        kept.append(ModelCheckpoint(folder, "best", monitor, mode="max", enable_version_counter=False))
    fitter = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[*kept, PlainProgress(folder.name, 60)],
        **trainer,
    )
    last = folder / "last.ckpt"
    fitter.fit(task, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    fitter.save_checkpoint(last)
    (Path(kept[-1].best_model_path) if monitor else last).rename(done)
    print(f"# {folder.name}: {time.monotonic() - start:.0f} s of wall time since its last start", flush=True)
    return done


@torch.no_grad()
def predict(task: GLoRITask, data: CXRDataModule) -> pd.DataFrame:
    """Test images' probabilities and truths, as `cxrsynth.evaluation.predictions` lays them out."""
    batches = [(b["image_id"], task(b["image"]).sigmoid(), b["target"]) for b in images_of(data, "test")]
    ids = [image_id for names, _, _ in batches for image_id in names]
    table = data.split_table.set_index("image_id").loc[ids, ["patient_id"]].reset_index()
    for suffix, column in (("_prob", 1), ("_true", 2)):
        values = torch.cat([batch[column] for batch in batches]).detach().numpy()
        table[[f"{f}{suffix}" for f in FINDINGS]] = values
    return table


class InChest:
    """A task's maps, cut to the chest that the segmenter finds."""

    def __init__(self, task: GLoRITask):
        self.task, self.findings = task, task.findings

    def maps(self, image: torch.Tensor) -> torch.Tensor:
        """See `Localiser`."""
        maps = self.task.maps(image)
        return maps * (F.interpolate(chest_field(segment(image)).float(), maps.shape[-2:], mode="area") > 0.5)


@torch.no_grad()
def print_outside(name: str, task: GLoRITask, data: CXRDataModule) -> None:
    """Share of the present findings' regions that lies outside the chest."""
    shares: list[float] = []
    for batch in images_of(data, "test"):
        image, finding = torch.nonzero(batch["target"] == 1, as_tuple=True)
        maps = finding_map(task.maps(batch["image"])[image, finding][:, None], (SIZE, SIZE), gamma=1)
        regions = region_from_map(maps, mass=0.5, min_component=0.2).bool()
        outside = regions & ~chest_field(segment(batch["image"]))[image]
        shares += (outside.sum((1, 2, 3)) / regions.sum((1, 2, 3))).tolist()
    print(f"{name}: {np.mean(shares):.1%} of the regions' area, {np.mean(np.array(shares) > 0.5):.1%} of them by half")


def shown(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def areas(predictions: pd.DataFrame) -> list[Interval]:
    """AUROC of each finding and, last, their mean."""
    return bootstrap(metric_columns(predictions, auroc), predictions["patient_id"].tolist())


def print_areas(title: str, tables: dict[str, pd.DataFrame]) -> None:
    first = next(iter(tables.values()))
    print(f"\n{title}: AUROC of {len(first)} images of {first.patient_id.nunique()} patients [95 % interval]")
    columns = {name: areas(table) for name, table in tables.items()}
    print(f"{'finding':20s} {'n':>4s} " + " ".join(f"{name:24s}" for name in columns))
    for index, finding in enumerate([*FINDINGS, "mean"]):
        count = "" if finding == "mean" else str(int((first[f"{finding}_true"] == 1).sum()))
        row = " ".join(f"{shown(values[index]):24s}" for values in columns.values())
        print(f"{finding:20s} {count:>4s} {row}")


def print_gains(tables: dict[str, pd.DataFrame], pairs: list[tuple[str, str]]) -> None:
    print("\nDifference of the mean AUROC, paired by patient [95 % interval]")
    for a, b in pairs:
        first, second = (metric_columns(tables[name], auroc) for name in (a, b))
        gain = bootstrap(lambda w, f=first, s=second: (f(w) - s(w))[:, -1:], tables[a]["patient_id"].tolist())[0]  # type: ignore[misc]
        print(f"{a} minus {b}: {shown(gain)}")


def print_localisation(name: str, rows: pd.DataFrame, patients: dict[str, str]) -> None:
    """Pointing game and IoU of the maps and of both baselines, over all boxes and over Pneumonia's."""
    for finding in ("all", "Pneumonia"):
        chosen = rows if finding == "all" else rows[rows.finding == finding]
        for method in METHODS:
            part = chosen[chosen.method == method]
            values = part[["pointing", "iou"]].to_numpy(dtype=float)
            found = bootstrap(
                lambda w, v=values: w @ v / w.sum(1, keepdims=True),  # type: ignore[misc]
                part.image_id.map(patients).tolist(),
            )
            print(f"{name:24s} {finding:10s} {len(part):5d} {method:12s} {shown(found[0]):22s} {shown(found[1]):22s}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dino-steps", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20, help="of the trainings end to end")
    parser.add_argument("--frozen-epochs", type=int, default=20)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="which to train; all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    common: dict[str, Any] = {
        "manifest": str(options.folder / "metadata.csv"),
        "splits": str(split(options.folder, options.out)),
        "findings": FINDINGS,
        "size": SIZE,
        "batch_size": 32,
    }

    L.seed_everything(0, verbose=False)
    pretraining = CXRDataModule(**common)
    trainer = {"max_steps": options.dino_steps, "limit_val_batches": 0, "check_val_every_n_epoch": 1}
    encoder = train(DINOTask(**VIT, **DINO), pretraining, options.out / "encoder", None, **trainer)

    tables: dict[str, pd.DataFrame] = {}
    found: dict[str, pd.DataFrame] = {}
    tasks: dict[str, GLoRITask] = {}
    for name in options.arms:
        pretrained, finetune = ARMS[name]
        L.seed_everything(0, verbose=False)
        folder = options.out / name.replace(", ", "-").replace(" ", "_")
        start: dict[str, Any] = {"encoder": str(encoder)} if pretrained else {"architecture": VIT}
        frozen = finetune == "none"
        rates = [3e-4, 1e-3, 3e-3] if frozen else [1e-3]
        task = GLoRITask(
            **HEAD,
            **start,
            finetune=finetune,
            learning_rates=rates,
            encoder_lr=1e-3,
            cache=str(options.out / "features") if frozen else None,
        )
        sampling = {"sampling": "balanced", "healthy_share": 0.4, "augment": 0.0 if frozen else 1.0}
        data = CXRDataModule(**common, **sampling, sites=["NIH"])
        epochs = options.frozen_epochs if frozen else options.epochs
        best = train(
            task,
            data,
            folder,
            "val/auroc",
            max_epochs=epochs,
            gradient_clip_val=1.0,
            check_val_every_n_epoch=2,
        )
        task = GLoRITask.load_from_checkpoint(best, map_location="cpu", weights_only=True).eval()
        test = CXRDataModule(**common, sites=["NIH"])
        tables[name] = predict(task, test)
        tasks[name] = task
        if finetune == "full" or pretrained:
            collect_maps(task, test, folder / "maps.npz")
            found[name] = localise(task, test, folder / "maps.npz")
    cut = InChest(tasks[options.arms[0]])
    collect_maps(cut, test, options.out / "maps_in_chest.npz")
    found["the first, in the chest"] = localise(cut, test, options.out / "maps_in_chest.npz")

    print(
        f"{sum(p.numel() for p in DINOTask(**VIT, **DINO).teacher['backbone'].parameters())} parameters, {SIZE} pixels"
    )
    print(pd.read_csv(common["splits"]).split.value_counts().to_string())
    print_areas("All test patients", tables)
    print_gains(tables, [pair for pair in PAIRS if set(pair) <= set(tables)])
    reference = pd.read_csv(options.folder / "reference_predictions.csv", dtype={"image_id": str})
    reference.columns = [f"{c[5:]}_prob" if c.startswith("prob_") else c for c in reference.columns]
    shared = {n: t[t.image_id.isin(reference.image_id)].reset_index(drop=True) for n, t in tables.items()}
    truth = next(iter(shared.values()))[["image_id", "patient_id", *(f"{f}_true" for f in FINDINGS)]]
    shared["DenseNet-121, 112,120 films"] = truth.merge(reference, on="image_id", validate="one_to_one")
    print_areas("Test images that the reference was run on", shared)
    print("\nBoxes on test images: share of maps whose highest pixel is inside, and IoU of the region [95 % interval]")
    print(f"{'encoder':24s} {'finding':10s} {'boxes':>5s} {'map':12s} {'pointing':22s} {'IoU':22s}")
    patients = dict(zip(test.split_table.image_id, test.split_table.patient_id, strict=True))
    for name, rows in found.items():
        print_localisation(name, rows, patients)
    print("\nRegions of present findings outside the chest that the segmenter finds")
    for name, task in tasks.items():
        print_outside(name, task, test)


if __name__ == "__main__":
    main()
