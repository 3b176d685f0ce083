"""The archive that the shipped inpainter of NIH's films was trained on: films, lungs, and where findings may lie.

python benchmarks/nih_archive.py ../shared/cxr runs/nih/archive
cxrsynth fit --config lightning_configs/inpainting_nih.yaml
cxrsynth export runs/nih/checkpoints/last.ckpt cxrsynth/inpainting/weights/nih.safetensors

Patients are split as the whole archive is by default (seed 0, 0.7 / 0.1 / 0.2), then NIH's are kept. Few findings are
marked by boxes. Where there is none, a map says where the finding lies as a rule, from the lungs of the very film (the
segmenter of the package): a prior, not an observation.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.anatomy import chest_field, segment
from cxrsynth.data import Manifest, read_image
from cxrsynth.data.geometry import to_square
from cxrsynth.data.masks import MaskStore
from cxrsynth.data.reading import write_png
from cxrsynth.data.split import make_splits
from cxrsynth.files import write_text

FINDINGS = ("Effusion", "Cardiomegaly", "Atelectasis", "Infiltration", "Pneumonia")
SIDE = 64  # pixels of the maps


def prior(finding: str, lungs: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Where a finding lies as a rule, `[H, W]` in [0, 1].

    Args:
        finding: Its name.
        lungs: Bool `[H, W]`.
        field: The chest field, bool `[H, W]`.
    """
    height = len(lungs)
    rows = np.flatnonzero(lungs.any(1))
    down = ((np.arange(height) - rows[0]) / (rows[-1] - rows[0] + 1))[:, None]  # 0 = apex, 1 = base
    low = np.flatnonzero(lungs.any(0))
    beside = np.abs((np.arange(lungs.shape[1]) - low.mean()) / (low[-1] - low[0] + 1))[None] * 2  # 0 = spine, 1 = side
    wide = np.zeros_like(lungs)
    wide[:, low[0] : low[-1] + 1] = True
    if finding == "Effusion":  # the costophrenic angles, and the lung's base, which fluid hides
        shape = wide * np.exp(-(((down - 1.0) / 0.22) ** 2)) * np.clip(beside * 1.5, 0.15, 1)
    elif finding == "Cardiomegaly":  # the heart and beside it
        shape = field * np.exp(-(((down - 0.78) / 0.25) ** 2) - (beside / 0.5) ** 2)
    elif finding == "Atelectasis":  # more often below
        shape = field * np.exp(-(((down - 0.8) / 0.3) ** 2))
    else:
        shape = gaussian_filter(lungs.astype(float), height / 40) * np.exp(-(((down - 0.65) / 0.45) ** 2))
    return shape / shape.max()


@torch.no_grad()
def lungs_of(films: Tensor) -> Tensor:
    return torch.cat([segment(part) for part in films.split(32)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = Manifest.load(options.archive / "metadata.csv")
    split = make_splits(whole, [0.7, 0.1, 0.2], 0).set_index("image_id")["split"]
    nih = whole.select(sites=["NIH"])
    table = nih.table.drop(columns="root")
    write_text(options.out / "metadata.csv", table.assign(split=split[table.image_id].to_numpy()).to_csv(index=False))
    write_text(options.out / "boxes.csv", nih.boxes.to_csv(index=False))
    (options.out / "images").mkdir(exist_ok=True)
    for path in table.path:
        shutil.copyfile(options.archive / path, options.out / path)
    films = torch.stack([to_square(read_image(nih.path(i)), 128) for i in table.image_id])
    lungs = lungs_of(films)
    masks = []
    for image_id, found in zip(table.image_id, lungs, strict=True):
        path = f"masks/{image_id}.png"
        large = F.interpolate(found[None].float(), (512, 512), mode="nearest")[0, 0]
        write_png(options.out / path, (large * 255).byte().numpy())
        masks.append((image_id, path, "lungs"))
    write_text(
        options.out / "masks.csv", pd.DataFrame(masks, columns=["image_id", "path", "structure"]).to_csv(index=False)
    )
    marked = MaskStore(nih, 128)
    fields = chest_field(lungs)
    ids, names, maps = [], [], []
    boxed = 0
    for row, (image_id, labels) in enumerate(zip(table.image_id, table.labels, strict=True)):
        for finding in set(labels.split("|")) & set(FINDINGS):
            if marked.has([image_id], [finding])[0, 0]:
                shape = marked.batch([image_id], [finding], 128)[0, 0].numpy()
                boxed += 1
            elif lungs[row].any():
                shape = prior(finding, lungs[row, 0].numpy(), fields[row, 0].numpy())
            else:
                continue
            small = F.adaptive_avg_pool2d(torch.from_numpy(np.asarray(shape, np.float32))[None], SIDE)[0]
            ids.append(image_id)
            names.append(finding)
            maps.append(small.numpy().astype(np.float16))
    np.savez_compressed(options.out / "maps.npz", image_id=np.array(ids), finding=np.array(names), map=np.stack(maps))
    print(f"{len(table)} films, {len(maps)} maps of findings, {boxed} of them from boxes")


if __name__ == "__main__":
    main()
