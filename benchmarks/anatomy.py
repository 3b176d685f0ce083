"""Dice of the segmenter that comes with the package, and pictures of what it finds on films without masks.

cxrsynth data phantom runs/anatomy/phantom_test --count 100 --size 192 --seed 101
python benchmarks/anatomy.py ../shared/cxr runs/anatomy/phantom_test > benchmarks/results/anatomy.txt

Test patients are those of lightning_configs/anatomy.yaml. The heart is never seen with a mask on a real film: its only
check there are the boxes that a radiologist drew around large hearts (Cardiomegaly).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_dice
from PIL import Image
from scipy.ndimage import binary_erosion
from torch import Tensor

from cxrsynth.anatomy import Segmenter, chest_field, load_segmenter, segment
from cxrsynth.anatomy.datamodule import MaskDataModule, MaskDataset
from cxrsynth.anatomy.segmenter import SHIPPED
from cxrsynth.data import Manifest, read_image
from cxrsynth.evaluation.bootstrap import bootstrap

FRACTIONS = [0.6, 0.1, 0.3]
SIZE = 512  # Dice is taken at the stored size of the real masks


def dice(images: Tensor, masks: Tensor, structure: str, segmenter: Segmenter) -> np.ndarray:
    """Dice of each image, `[N]`."""
    found = torch.cat([segment(part, structure, segmenter) for part in images.split(16)])
    return compute_dice(found, masks, include_background=True)[:, 0].double().numpy()


def print_row(name: str, values: np.ndarray, patients: list[str]) -> None:
    mean = bootstrap(lambda w: (w @ values / w.sum(1))[:, None], patients)[0]
    interval = f"{mean.estimate:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
    print(f"{name:34s} {len(values):6d} {interval:22s} {values.min():8.3f}")


def print_hearts(manifest: Manifest, segmenter: Segmenter) -> None:
    """Boxes around large hearts against the bounding boxes of the segmented ones."""
    for row in manifest.boxes[manifest.boxes.label == "Cardiomegaly"].itertuples():
        heart = segment(read_image(manifest.path(str(row.image_id)))[None], "heart", segmenter)[0, 0]
        y, x = torch.nonzero(heart, as_tuple=True)
        found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float) if len(x) else np.zeros(4)
        truth = np.array([row.x_min, row.y_min, row.x_max, row.y_max], float)
        overlap = np.clip(np.minimum(found[2:], truth[2:]) - np.maximum(found[:2], truth[:2]), 0, None).prod()
        union = (found[2:] - found[:2]).prod() + (truth[2:] - truth[:2]).prod() - overlap
        print(f"  {row.image_id}  IoU of the boxes {overlap / union:.2f}")


def overlay(image: Tensor, segmenter: Segmenter) -> np.ndarray:
    """The film with outlines of lungs (green), heart (red) and chest field (blue), uint8 `[H, W, 3]`."""
    lungs = segment(image[None], "lungs", segmenter)
    shown = {(0, 255, 0): lungs, (60, 120, 255): chest_field(lungs)}
    if "heart" in segmenter.structures:
        shown[(255, 60, 60)] = segment(image[None], "heart", segmenter)
    picture = np.repeat((image[0].numpy()[..., None] * 255).astype(np.uint8), 3, 2)
    for colour, mask in shown.items():
        inside = mask[0, 0].numpy()
        picture[inside & ~binary_erosion(inside, iterations=2)] = colour
    return picture


def write_overlays(manifest: Manifest, out: Path, segmenter: Segmenter) -> None:
    """Six PA and six AP films of NIH with findings, seeded, in one picture each."""
    for view in ("PA", "AP"):
        chosen = manifest.select(views=[view], sites=["NIH"])
        sick = chosen.table[~chosen.healthy].sample(6, random_state=0)
        films = [overlay(read_image(manifest.path(i)), segmenter) for i in sick.image_id]
        rows = [np.concatenate(films[start : start + 3], 1) for start in (0, 3)]
        Image.fromarray(np.concatenate(rows)).save(out / f"overlays_{view}.png")
        print(
            f"# overlays_{view}.png: " + "; ".join(f"{i} {v}" for i, v in zip(sick.image_id, sick.labels, strict=True))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("phantom", type=Path)
    parser.add_argument("--segmenter", type=Path, default=SHIPPED)
    parser.add_argument("--overlays", type=Path, help="folder for pictures of twelve films with outlines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = load_segmenter(options.segmenter)
    real = MaskDataModule(str(options.real / "metadata.csv"), ["lungs"], SIZE, fractions=FRACTIONS).dataset("test")
    simulated = Manifest.load(options.phantom / "metadata.csv")
    phantom = MaskDataset(simulated, segmenter.structures, 192)
    print(f"{sum(p.numel() for p in segmenter.parameters())} parameters, {segmenter.config}")
    print(f"{'Dice':34s} {'images':>6s} {'mean [95 % interval]':22s} {'smallest':>8s}")
    print_row("lungs, Montgomery test patients", dice(real.images, real.masks, "lungs", segmenter), real.ids)
    patients = simulated.table.patient_id.tolist()
    for column, structure in enumerate(segmenter.structures):
        scores = dice(phantom.images, phantom.masks[:, column : column + 1], structure, segmenter)
        print_row(f"{structure}, phantom of another seed", scores, patients)
    films = Manifest.load(options.real / "metadata.csv")
    if "heart" in segmenter.structures:
        print("Heart on real films, against the boxes of Cardiomegaly:")
        print_hearts(films, segmenter)
    if options.overlays:
        options.overlays.mkdir(parents=True, exist_ok=True)
        write_overlays(films, options.overlays, segmenter)


if __name__ == "__main__":
    main()
