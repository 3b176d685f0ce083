"""Do the maps find the lesions? Measured against masks and boxes, beside baselines that have not seen the image."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from cxrsynth.attention.maps import Localiser, check_findings, finding_map, images_of
from cxrsynth.attention.region import region_from_map
from cxrsynth.data import CXRDataModule, Manifest
from cxrsynth.data.geometry import square_padding, to_square
from cxrsynth.data.maps import MapStore
from cxrsynth.errors import UserError
from cxrsynth.files import inside

METHODS = ("attention", "average_map", "centre")
"""The task's map; the mean of the finding's training maps; closeness to the image's centre."""


def pointing(map: Tensor, truth: Tensor) -> bool:
    """Whether the map's highest pixel lies in the truth (pointing game, Zhang et al. 2016, without tolerance).

    Args:
        map: `[H, W]`.
        truth: `[H, W]`, above 0 inside the lesion.
    """
    return bool(truth.flatten()[map.flatten().argmax()] > 0)


def iou(region: Tensor, truth: Tensor) -> float:
    """Intersection over union of two `[H, W]` masks (above 0 = inside); 0 when both are empty."""
    region, truth = region > 0, truth > 0
    return float((region & truth).sum() / (region | truth).sum().clamp(min=1))


def brightest(map: Tensor, area: int) -> Tensor:
    """The `area` highest pixels of a map `[H, W]`, as a mask of the same shape and dtype."""
    order = map.flatten().sort(descending=True, stable=True).indices[:area]
    return torch.zeros_like(map).flatten().index_fill(0, order, 1).view_as(map)


def centre_map(size: int) -> Tensor:
    """Closeness to the middle of a square, `[size, size]`, 1 at most."""
    axis = torch.linspace(-1, 1, size)
    return 1 / (1 + axis[:, None] ** 2 + axis[None] ** 2)


def average_maps(maps: MapStore, findings: list[str], size: int) -> dict[str, Tensor]:
    """The mean map `[size, size]` of each finding that the store has any of."""
    means = {}
    for finding in findings:
        rows = [row for (_, name), row in maps.index.items() if name == finding]
        if rows:
            mean = maps.maps[rows].float().mean(0)
            means[finding] = finding_map(mean[None, None], (size, size), gamma=1)[0, 0]
    return means


def score(
    map: Tensor, truth: Tensor, priors: Mapping[str, Tensor], mass: float = 0.5
) -> list[dict[str, str | bool | float]]:
    """Score a map and its baselines against one lesion.

    The baselines' regions have as many pixels as the map's own, so that no method gains by painting more.

    Args:
        map: `[H, W]`, of the pixels of `truth`.
        truth: `[H, W]`, above 0 inside the lesion.
        priors: Baseline maps `[H, W]` by method.
        mass: Share of the map's mass that its region holds.

    Returns:
        One row per method: `method, pointing, iou, area_share`, the last being the lesion's share of the image.
    """
    region = region_from_map(map[None, None], mass, min_component=0.2, dilate=0)[0, 0]
    regions = {name: brightest(prior, int(region.sum())) for name, prior in priors.items()}
    maps = {"attention": map, **priors}
    return [
        {
            "method": name,
            "pointing": pointing(maps[name], truth),
            "iou": iou(one, truth),
            "area_share": float((truth > 0).float().mean()),
        }
        for name, one in {"attention": region, **regions}.items()
    ]


def truths(manifest: Manifest, image_id: str, size: int) -> dict[str, Tensor]:
    """Where an image's findings are, on the square that networks see: its masks, and its boxes where there is no mask.

    Args:
        manifest: With masks, boxes or both.
        image_id: The image.
        size: Side of the square in pixels.

    Returns:
        `[size, size]` in {0, 1} by finding.
    """
    found: dict[str, Tensor] = {}
    boxes = manifest.boxes[manifest.boxes.image_id == image_id]
    if len(boxes):
        with Image.open(manifest.path(image_id)) as picture:
            width, height = picture.size
        top, left, side = square_padding(height, width)
        corners = boxes[["x_min", "x_max", "y_min", "y_max"]].to_numpy(dtype=float) + np.array([left, left, top, top])
        for label, corner in zip(boxes.label, (corners * size / side).round().astype(int), strict=True):
            x_min, x_max, y_min, y_max = corner.tolist()
            mask = found.setdefault(label, torch.zeros(size, size))
            mask[y_min : max(y_max, y_min + 1), x_min : max(x_max, x_min + 1)] = 1
    masks = manifest.masks[(manifest.masks.image_id == image_id) & manifest.masks.structure.isin(manifest.findings)]
    for root, path, finding in zip(masks.root, masks.path, masks.structure, strict=True):
        with Image.open(inside(root, path)) as picture:
            pixels = torch.from_numpy(np.array(picture.convert("L"), dtype=np.float32)) / 255
        found[finding] = (to_square(pixels, size) > 0.5).float()
    return {finding: mask for finding, mask in found.items() if mask.any()}


@torch.no_grad()
def localise(
    task: Localiser, data: CXRDataModule, maps: str | Path, split: str = "test", mass: float = 0.5
) -> pd.DataFrame:
    """Score the maps of a split's present findings wherever the manifest says where they are.

    Args:
        task: Makes the maps.
        data: The images, at the size of the task.
        maps: The training maps that `collect_maps` wrote, for the average-map baseline.
        split: Whose images are scored.
        mass: Share of a map's mass that its region holds.

    Returns:
        Columns `image_id, finding, method, pointing, iou, area_share`; one row per lesion and method.
    """
    size = int(data.hparams["size"])
    if data.hparams["square"] != "pad":
        raise UserError("data.square is crop, but lesions are looked for in whole images; use pad")
    averages = average_maps(MapStore(maps), task.findings, size)
    centre = centre_map(size)
    rows: list[dict[str, str | bool | float]] = []
    for batch in images_of(data, split):
        check_findings(task, data)
        found = [truths(data.manifest(split), image_id, size) for image_id in batch["image_id"]]
        if not any(found):
            continue
        full = finding_map(task.maps(batch["image"]).float().cpu(), (size, size), gamma=1)
        for index, image_id in enumerate(batch["image_id"]):
            for column, finding in enumerate(task.findings):
                if batch["target"][index, column] != 1 or finding not in found[index] or finding not in averages:
                    continue
                priors = {"average_map": averages[finding], "centre": centre}
                scores = score(full[index, column], found[index][finding], priors, mass)
                rows += [{"image_id": image_id, "finding": finding, **row} for row in scores]
    return pd.DataFrame(rows, columns=["image_id", "finding", "method", "pointing", "iou", "area_share"])
