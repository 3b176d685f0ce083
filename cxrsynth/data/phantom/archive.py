"""A simulated archive on disk: a manifest folder with known truth."""

import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from cxrsynth.data.phantom.lesions import FINDINGS
from cxrsynth.data.phantom.patient import Exposure, Patient
from cxrsynth.data.phantom.render import Phantom, render
from cxrsynth.data.phantom.report_text import report
from cxrsynth.errors import UserError
from cxrsynth.files import write_bytes, write_text

WRITERS = 4  # threads; a film waits for the disk as long as for its rendering
T = TypeVar("T")


def simulate(
    index: int,
    seed: int,
    size: int = 128,
    healthy: float = 0.5,
    patients: int | None = None,
    severity: tuple[float, float] = (0.2, 1.0),
) -> Phantom:
    """The film number `index` of the archive of this seed.

    Args:
        index: From 0.
        seed: The archive's seed. Films of different seeds share no patient.
        size: Pixels along a side.
        healthy: Share of films without any finding.
        patients: Number of patients; films go round, so that film i shows patient `i % patients`. None: one film each.
        severity: Least and largest severity of a finding, in (0, 1].
    """
    person = index % patients if patients else index
    draw = np.random.default_rng([seed, 11, index])
    patient = Patient.draw(int(np.random.default_rng([seed, 12, person]).integers(2**31)))
    exposure = Exposure.draw(int(draw.integers(2**31)))
    if draw.random() < healthy:
        return render(patient, exposure, (), size)
    count = 1 + int(draw.random() < 0.25) + int(draw.random() < 0.05)
    names = sorted(draw.choice(len(FINDINGS), count, replace=False).tolist())
    return render(patient, exposure, [(FINDINGS[k], float(draw.uniform(*severity))) for k in names], size)


def write_phantom(
    out: str | Path,
    count: int = 1000,
    size: int = 128,
    seed: int = 0,
    healthy: float = 0.5,
    patients: int | None = None,
    bits: int = 8,
    severity: tuple[float, float] = (0.2, 1.0),
) -> Path:
    """Write a simulated archive, or finish one that was cut off; a finished one is left as it is.

    The folder holds `images/`, `masks/` (lungs, heart and each finding), `metadata.csv`, `boxes.csv` and `masks.csv`.
    Every file depends on the arguments and its own number alone.

    Args:
        out: Folder.
        count: Number of films.
        size: Pixels along a side, 64 to 1024.
        seed: Seed of the archive.
        healthy: Share of films with "No Finding".
        patients: Number of patients; None makes two thirds as many as films, so that some have two.
        bits: 8 or 16 bits a pixel.
        severity: Least and largest severity of a finding, in (0, 1].

    Returns:
        Path of `metadata.csv`.

    Raises:
        UserError: An argument out of range, or a folder that holds another archive.
    """
    _check(count, size, healthy, patients, bits, severity)
    out = Path(out)
    patients = patients or max(1, round(count * 2 / 3))
    recipe = json.dumps(
        {
            "phantom": 1,
            "count": count,
            "size": size,
            "seed": seed,
            "healthy": healthy,
            "patients": patients,
            "bits": bits,
            "severity": list(severity),
        }
    )
    stamp = out / "phantom.json"
    if stamp.exists() and stamp.read_text() != recipe + "\n":
        raise UserError(f"out is {out}, which holds a phantom of other settings; choose an empty folder or delete it")
    metadata = out / "metadata.csv"
    if stamp.exists() and metadata.exists():
        return metadata
    write_text(stamp, recipe + "\n")
    rows: list[dict[str, object]] = []
    boxes: list[tuple[object, ...]] = []
    masks: list[tuple[str, str, str]] = []

    def film(index: int) -> tuple[str, Phantom, dict[str, str]]:
        """Render and write one film; return its structures and their files."""
        phantom = simulate(index, seed, size, healthy, patients, severity)
        image_id = f"phantom_{seed}_{index:05d}"
        _write_png(out / "images" / f"{image_id}.png", phantom.image, bits)
        structures = {"lungs": phantom.anatomy.lungs[0].field + phantom.anatomy.lungs[1].field > 0.5}
        structures["heart"] = phantom.anatomy.heart > 0.5
        structures |= {lesion.finding: lesion.mask for lesion in phantom.lesions}
        paths = {structure: f"masks/{image_id}_{structure}.png" for structure in structures}
        for structure, mask in structures.items():
            _write_mask(out / paths[structure], mask)
        return image_id, phantom, paths

    with ThreadPoolExecutor(WRITERS) as pool:
        for index, (image_id, phantom, paths) in enumerate(_ahead(pool, film, count)):
            masks += [(image_id, path, structure) for structure, path in paths.items()]
            boxes += [(image_id, lesion.finding, *lesion.box) for lesion in phantom.lesions]
            rows.append(
                {
                    "image_id": image_id,
                    "path": f"images/{image_id}.png",
                    "labels": "|".join(lesion.finding for lesion in phantom.lesions) or "No Finding",
                    "patient_id": f"phantom_{seed}_p{index % patients:05d}",
                    "view": phantom.exposure.view,
                    "sex": phantom.patient.sex,
                    "age": phantom.patient.age,
                    "text": report(phantom, np.random.default_rng([seed, 13, index])),
                    "site": "phantom",
                }
            )
    box_columns = ["image_id", "label", "x_min", "y_min", "x_max", "y_max"]
    write_text(out / "boxes.csv", pd.DataFrame(boxes, columns=box_columns).to_csv(index=False))
    write_text(out / "masks.csv", pd.DataFrame(masks, columns=["image_id", "path", "structure"]).to_csv(index=False))
    return write_text(metadata, pd.DataFrame(rows).to_csv(index=False))


def _ahead(pool: ThreadPoolExecutor, function: Callable[[int], T], count: int) -> Iterator[T]:
    """Results for 0 to `count` - 1 in their order, with no more than some films in memory."""
    waiting: deque[Future[T]] = deque()
    for index in range(count):
        waiting.append(pool.submit(function, index))
        if len(waiting) > 4 * WRITERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _check(count: int, size: int, healthy: float, patients: int | None, bits: int, severity: Sequence[float]) -> None:
    if count < 1:
        raise UserError(f"count is {count} but must be at least 1; ask for one film or more")
    if not 64 <= size <= 1024:
        raise UserError(f"size is {size} but must lie in 64 to 1024 pixels; choose a size in that range")
    if not 0 <= healthy <= 1:
        raise UserError(f"healthy is {healthy} but must lie in [0, 1]; it is the share of films without a finding")
    if patients is not None and not 1 <= patients <= count:
        raise UserError(f"patients is {patients} but must lie in 1 to {count} (count); every patient needs a film")
    if bits not in (8, 16):
        raise UserError(f"bits is {bits} but must be 8 or 16; choose one of these")
    if not 0 < severity[0] <= severity[1] <= 1:
        raise UserError(f"severity is {list(severity)} but must be a least and a largest value in (0, 1]")


def _write_png(path: Path, image: np.ndarray, bits: int) -> None:
    if path.exists():
        return
    top = 2**bits - 1
    values = np.round(np.clip(image, 0, 1) * top).astype(np.uint8 if bits == 8 else np.uint16)
    _save(path, Image.fromarray(values))


def _write_mask(path: Path, mask: np.ndarray) -> None:
    if not path.exists():
        _save(path, Image.fromarray((mask * 255).astype(np.uint8)))


def _save(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=4)
    write_bytes(path, buffer.getvalue())
