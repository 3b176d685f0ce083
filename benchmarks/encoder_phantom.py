"""Does pretraining without labels teach a small encoder anything? Probes before and after, on a phantom archive.

python benchmarks/encoder_phantom.py runs/encoder_phantom > benchmarks/results/encoder_phantom.txt

The probes (k nearest neighbours and a logistic regression for each finding) are taught by the training patients and
asked about all others. Accuracy is balanced over present and absent at the threshold that the training share sets.
Intervals are bootstrap intervals over patients; the gain is paired.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from cxrsynth.attention.maps import images_of
from cxrsynth.data import CXRDataModule
from cxrsynth.data.phantom import write_phantom
from cxrsynth.encoder.probe import PROBES, summary_vector
from cxrsynth.encoder.task import DINOTask
from cxrsynth.evaluation.bootstrap import bootstrap
from cxrsynth.evaluation.metrics import auroc

FINDINGS = ["Effusion", "Consolidation", "Pneumothorax", "Nodule", "Cardiomegaly", "Atelectasis"]
SIZE, BATCH = 96, 32
TASK: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 8,
    "dim": 64,
    "depth": 2,
    "num_heads": 4,
    "ffn": "mlp",
    "layer_scale": 1.0,
    "contrast": "standardise",
    "position_init": "sincos",
    "drop_path": 0.0,
    "local_size": 32,
    "local_crops": 2,
    "global_scale": (0.6, 1.0),
    "local_scale": (0.25, 0.6),
    "prototypes": 128,
    "head_hidden": 128,
    "bottleneck": 64,
    "batch_norm": True,
    "ibot_weight": 1.0,
    "lr": 0.0113,
    "patch_lr": 1.0,
    "momentum": (0.95, 0.999),
    "teacher_temperature": (0.02, 0.02),  # at 0.04 every target stays uniform for hundreds of steps
}


@torch.no_grad()
def vectors(task: DINOTask, data: CXRDataModule, splits: tuple[str, ...]) -> tuple[Tensor, Tensor, list[str]]:
    """Summary vectors, findings and patients of splits."""
    batches = [batch for split in splits for batch in images_of(data, split)]
    patients = dict(zip(data.split_table["image_id"], data.split_table["patient_id"], strict=True))
    features = torch.cat([summary_vector(task(batch["image"])) for batch in batches])
    ids = [image_id for batch in batches for image_id in batch["image_id"]]
    return features, torch.cat([batch["target"] for batch in batches]), [patients[image_id] for image_id in ids]


def balanced_accuracy(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """Mean of sensitivity and specificity `[d]` where the given share of the images is called present."""
    called = scores >= np.quantile(scores, 1 - share)
    rates = [(weights @ ((called == kind) & (truth == kind))) / (weights @ (truth == kind)) for kind in (True, False)]
    return (rates[0] + rates[1]) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1500, help="films of the phantom archive")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    manifest = write_phantom(options.folder, count=options.count, size=128, healthy=0.4, severity=(0.5, 1.0))
    data = CXRDataModule(str(manifest), size=SIZE, findings=FINDINGS, batch_size=BATCH, seed=options.seed)
    L.seed_everything(options.seed)
    task = DINOTask(**TASK, seed=options.seed)
    scores: dict[tuple[str, str], np.ndarray] = {}

    def probe(name: str) -> tuple[np.ndarray, list[str], np.ndarray]:
        task.eval()
        bank, known, _ = vectors(task, data, ("train",))
        asked, target, patients = vectors(task, data, ("val", "test"))
        for kind, scorer in PROBES.items():
            scores[kind, name] = scorer(bank, known, asked).numpy().astype(float)
        return target.numpy(), patients, known.mean(0).numpy()

    probe("untrained")
    started = time.process_time()
    L.Trainer(
        max_steps=options.steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    ).fit(task.train(), datamodule=data)
    minutes = (time.process_time() - started) / 60
    truth, patients, shares = probe("pretrained")

    def macro(weights: np.ndarray) -> np.ndarray:
        columns = []
        for kind in PROBES:
            for metric in ("auroc", "accuracy"):
                values = []
                for name in ("untrained", "pretrained"):
                    each = [
                        auroc(s, t, weights) if metric == "auroc" else balanced_accuracy(s, t == 1, weights, share)
                        for s, t, share in zip(scores[kind, name].T, truth.T, shares, strict=True)
                    ]
                    values.append(np.nanmean(each, axis=0))
                columns += [*values, values[1] - values[0]]
        return np.stack(columns, axis=1)

    intervals = iter(bootstrap(macro, patients))
    print(
        f"{options.count} phantom films, {len(truth)} of them of patients that no probe was taught with; "
        f"{options.steps} steps, {minutes:.1f} CPU minutes on one core"
    )
    print(f"{'mean over findings':28s} {'untrained':22s} {'pretrained':22s} {'paired gain':22s}")
    for kind in PROBES:
        for metric in ("AUROC", "balanced accuracy"):
            cells = [next(intervals) for _ in range(3)]
            shown = " ".join(f"{f'{i.estimate:.3f} [{i.low:.3f}, {i.high:.3f}]':22s}" for i in cells)
            print(f"{f'{kind} {metric}':28s} {shown}")


if __name__ == "__main__":
    main()
