"""Attention as an image: where the head looks for a finding."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from cxrsynth.anatomy import allowed
from cxrsynth.data import CXRDataModule
from cxrsynth.errors import UserError
from cxrsynth.files import write_atomic


class Localiser(Protocol):
    """What makes maps: a `GLoRITask`, or anything with its `maps` and findings."""

    findings: list[str]

    def maps(self, image: Tensor) -> Tensor:
        """Maps `[B, C, h, w]` of images `[B, 1, S, S]`."""
        ...


def patch_maps(attention: Tensor, grid: tuple[int, int], per_head: bool = False) -> Tensor:
    """Mean over heads, or every head's own map, laid out as the patches lie.

    Args:
        attention: `[B, heads, C, N]`.
        grid: Rows and columns of patches, N in all.
        per_head: Whether heads stay apart.

    Returns:
        `[B, C, rows, columns]`, or `[B, heads * C, rows, columns]`, head by head; each map sums to 1.
    """
    return (attention.flatten(1, 2) if per_head else attention.mean(1)).unflatten(-1, grid)


def averaged_maps(
    maps_of: Callable[[Tensor], Tensor], image: Tensor, patch_size: int, views: int = 1, smooth: float = 0.0
) -> Tensor:
    """Maps averaged over shifts of the image by parts of a patch, then smoothed.

    What a patch's border happens to cut through moves a map by a patch or more; averaging over shifts evens that out
    and makes the map finer.

    Args:
        maps_of: Gives maps `[B, C, h, w]` of images.
        image: `[B, 1, H, W]`.
        patch_size: Side of a patch in pixels; a multiple of `views`.
        views: Shifts along each axis, `views ** 2` in all; 1 is the plain map.
        smooth: Standard deviation of a Gaussian, in patches; 0 is none.

    Returns:
        `[B, C, views * h, views * w]`; each map sums to 1.
    """
    step = patch_size // views
    total: Tensor | float = 0.0
    for down in range(views):
        for right in range(views):
            edges = (0, right * step, 0, down * step)
            moved = F.pad(image, edges, mode="replicate")[..., down * step :, right * step :]
            maps = maps_of(moved)
            fine = F.interpolate(maps, scale_factor=views, mode="bilinear") if views > 1 else maps
            back = F.pad(fine, (right, 0, down, 0), mode="replicate")
            total = total + back[..., : fine.shape[-2], : fine.shape[-1]]
    assert isinstance(total, Tensor)
    if smooth:
        sigma = smooth * views
        size = 2 * round(3 * sigma) + 1
        total = gaussian_blur2d(total, (size, size), (sigma, sigma), border_type="replicate")
    return total / total.sum((-2, -1), keepdim=True)


def finding_map(maps: Tensor, size: tuple[int, int], gamma: float = 0.5) -> Tensor:
    """Maps ready to be looked at: upsampled bilinearly, scaled to a largest value of 1, brightened by gamma.

    Args:
        maps: Non-negative, `[B, C, h, w]`.
        size: Height and width of the result in pixels.
        gamma: Exponent after scaling; 0.5 in CheXFound, 1 leaves the attention's proportions.

    Returns:
        `[B, C, H, W]` in [0, 1]; a map that is 0 everywhere stays so.
    """
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return (maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-12)) ** gamma


def images_of(data: CXRDataModule, split: str) -> Any:
    """Batches of a split's images, each once, in the table's order."""
    data.hparams["predict_split"] = split
    data.setup("predict")
    return data.predict_dataloader()


@torch.no_grad()
def collect_maps(
    task: Localiser, data: CXRDataModule, out: str | Path, split: str = "train", gamma: float = 1.0, limit: str = "none"
) -> int:
    """Write the maps of every present finding of a split's images, at the resolution of the patches.

    A map with nothing where findings may lie is left out.

    The file is what `CXRDataModule(maps=...)` reads: `image_id [M]`, `finding [M]`, `map [M, h, w]` float16 in [0, 1].

    Args:
        task: Makes the maps.
        data: The images; its findings must be the task's.
        out: The `.npz` file, written whole or not at all.
        split: "train", "val", "test" or "all".
        gamma: See `finding_map`.
        limit: Where findings may lie, see `anatomy.allowed`; a map is 0 elsewhere.

    Returns:
        How many maps were written.

    Raises:
        UserError: The findings differ, or no image of the split has any where it may lie.
    """
    ids: list[str] = []
    findings: list[str] = []
    maps: list[np.ndarray] = []
    for batch in images_of(data, split):
        check_findings(task, data)
        image, finding = torch.nonzero(batch["target"] == 1, as_tuple=True)
        if not len(image):
            continue
        chosen = task.maps(batch["image"])[image, finding].unsqueeze(1)
        where = allowed(batch["image"], limit)
        if where is not None:
            chosen = (
                chosen * F.adaptive_avg_pool2d(where.float(), (chosen.shape[-2], chosen.shape[-1])).to(chosen)[image]
            )
            inside = chosen.flatten(1).amax(1) > 0
            image, finding, chosen = image[inside.cpu()], finding[inside.cpu()], chosen[inside]
            if not len(image):
                continue
        scaled = finding_map(chosen.float(), (chosen.shape[-2], chosen.shape[-1]), gamma)
        maps.append(scaled[:, 0].cpu().numpy().astype(np.float16))
        ids += [batch["image_id"][index] for index in image]
        findings += [task.findings[index] for index in finding]
    if not maps:
        lungs = "" if limit == "none" else f" and lungs to look in (limit is {limit!r})"
        raise UserError(
            f"no image of split {split!r} has any of {', '.join(task.findings)}{lungs}; there is no map to write"
        )
    every = np.concatenate(maps)
    write_atomic(
        out, lambda file: np.savez_compressed(file, image_id=np.array(ids), finding=np.array(findings), map=every)
    )
    return len(ids)


def check_findings(task: Localiser, data: CXRDataModule) -> None:
    """Refuse data whose targets stand for other findings than the task's."""
    if list(task.findings) != list(data.findings):
        raise UserError(
            f"the task knows {', '.join(task.findings)} and the data {', '.join(data.findings)}; "
            "give both the same findings in the same order"
        )
