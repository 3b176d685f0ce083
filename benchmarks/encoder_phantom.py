"""Does pretraining without labels teach a small encoder anything? Probes before and after, on a phantom archive.

python benchmarks/encoder_phantom.py runs/encoder_phantom > benchmarks/results/encoder_phantom.txt

The probes (k nearest neighbours and a logistic regression for each finding) are taught by the training patients and
asked about all others and about 600 films of a second archive. Accuracy is balanced over present and absent at the
threshold that the training share sets. Intervals are bootstrap intervals over patients; the gain is paired. Settings
were chosen on another archive (--archive 11).
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
    "lr": 0.0226,
    "patch_lr": 1.0,
    "momentum": (0.95, 0.999),
    "teacher_temperature": (0.02, 0.02),  # at 0.04 every target stays uniform for hundreds of steps
}


VIEWS = {  # of an image: what stands for it
    "cls token": lambda patches, cls: cls,
    "cls, mean patch": lambda patches, cls: torch.cat([cls, patches.mean(1)], 1),
    "cls, spread of patches": lambda patches, cls: summary_vector([(patches, cls)]),  # what `EncoderProbe` takes
    "spread of patches": lambda patches, cls: patches.std(1),
}
BEST = "spread of patches"


@torch.no_grad()
def vectors(
    task: DINOTask, data: CXRDataModule, splits: tuple[str, ...]
) -> tuple[dict[str, Tensor], Tensor, list[str]]:
    """Vectors of each kind, targets (findings, then AP and female) and patients of splits."""
    batches = [batch for split in splits for batch in images_of(data, split)]
    patients = dict(zip(data.split_table["image_id"], data.split_table["patient_id"], strict=True))
    seen = [task(batch["image"])[-1] for batch in batches]
    features = {name: torch.cat([view(*one) for one in seen]) for name, view in VIEWS.items()}
    easy = [[(v == "AP", s == "F") for v, s in zip(b["view"], b["sex"], strict=True)] for b in batches]
    target = torch.cat(
        [torch.cat([b["target"], torch.tensor(e).float()], 1) for b, e in zip(batches, easy, strict=True)]
    )
    return features, target, [patients[image_id] for batch in batches for image_id in batch["image_id"]]


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
    parser.add_argument("--archive", type=int, default=0, help="seed of the archive")
    options = parser.parse_args()
    torch.set_num_threads(1)
    manifest = write_phantom(options.folder, options.count, 128, options.archive, healthy=0.4, severity=(0.5, 1.0))
    data = CXRDataModule(str(manifest), size=SIZE, findings=FINDINGS, batch_size=BATCH, seed=options.seed)
    more = write_phantom(options.folder / "more", 600, 128, options.archive + 1, healthy=0.4, severity=(0.5, 1.0))
    others = CXRDataModule(str(more), size=SIZE, findings=FINDINGS, batch_size=BATCH)
    L.seed_everything(options.seed)
    task = DINOTask(**TASK, seed=options.seed)
    scores: dict[tuple[str, str, str], np.ndarray] = {}

    def probe(name: str) -> tuple[np.ndarray, list[str], np.ndarray]:
        task.eval()
        bank, known, _ = vectors(task, data, ("train",))
        parts = [vectors(task, data, ("val", "test")), vectors(task, others, ("all",))]
        asked = {view: torch.cat([part[0][view] for part in parts]) for view in VIEWS}
        target, patients = torch.cat([part[1] for part in parts]), [one for part in parts for one in part[2]]
        for view in VIEWS:
            for kind, scorer in PROBES.items():
                scores[view, kind, name] = scorer(bank[view], known, asked[view]).numpy().astype(float)
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

    count = len(FINDINGS)
    rows = [(view, kind, "findings", slice(0, count)) for view in VIEWS for kind in PROBES]
    rows.append((BEST, "knn", "view and sex", slice(count, count + 2)))

    def macro(weights: np.ndarray) -> np.ndarray:
        columns = []
        for view, kind, _, part in rows:
            for metric in ("auroc", "accuracy"):
                values = []
                for name in ("untrained", "pretrained"):
                    each = [
                        auroc(s, t, weights) if metric == "auroc" else balanced_accuracy(s, t == 1, weights, share)
                        for s, t, share in zip(
                            scores[view, kind, name].T[part], truth.T[part], shares[part], strict=True
                        )
                    ]
                    values.append(np.nanmean(each, axis=0))
                columns += [*values, values[1] - values[0]]
        return np.stack(columns, axis=1)

    intervals = iter(bootstrap(macro, patients))
    print(
        f"{options.count} phantom films, {len(truth)} of them of patients that no probe was taught with; "
        f"{options.steps} steps, {minutes:.1f} CPU minutes on one core"
    )
    print(f"{'an image is':24s} {'probe, labels':20s} {'mean of':18s} {'untrained':21s} {'pretrained':21s} paired gain")
    for view, kind, labels, _ in rows:
        for metric in ("AUROC", "balanced accuracy"):
            cells = [next(intervals) for _ in range(3)]
            shown = " ".join(f"{f'{i.estimate:.3f} [{i.low:.3f}, {i.high:.3f}]':21s}" for i in cells)
            print(f"{view:24s} {f'{kind}, {labels}':20s} {metric:18s} {shown}")


if __name__ == "__main__":
    main()
