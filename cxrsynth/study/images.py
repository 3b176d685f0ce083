"""Images that some arms need: pasted lesions, painted controls, the phantom's own films, and what a scorer keeps."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from cxrsynth.data.geometry import from_square, to_square
from cxrsynth.data.labels import find
from cxrsynth.data.manifest import Manifest, split_labels
from cxrsynth.data.phantom import Exposure, Patient, render
from cxrsynth.data.reading import StoredImage, read_image, read_stored, write_png
from cxrsynth.errors import UserError
from cxrsynth.evaluation.predictions import score_files
from cxrsynth.files import inside, sha256_file, write_text
from cxrsynth.inpainting.guidance import HEALTHY_GUIDANCE, at_most
from cxrsynth.inpainting.task import InpaintingTask, load_inpainter
from cxrsynth.inpainting.window import soft_edge
from cxrsynth.ops import warp
from cxrsynth.registration.transport import transport
from cxrsynth.study.material import Material
from cxrsynth.synthesis.painting import paint_films
from cxrsynth.synthesis.task import load_attention

ABOUT = ["patient_id", "view", "sex", "age", "site"]
FEATHER = 2  # pixels over which a pasted lesion fades in
OTHER_FILMS = 1_000_003  # added to the phantom's seed: films of other patients than the archive's

PAINTED = ["solver", "steps", "warp", "guidance", "baseline", "feather"]  # of a record: how its image was painted

Row = dict[str, Any]
Bools = NDArray[np.bool_]


def copy_paste(material: Material) -> Path:
    """Lesions of the exemplars pasted into the sources' regions; no network is in it.

    The exemplar is registered to the source as for the transport of its map, and its grey is shifted to the source's at
    the region's rim.

    Returns:
        The manifest of the images.
    """

    def make(record: Row, source: StoredImage, region: Bools) -> StoredImage:
        size = material.size
        film = to_square(torch.as_tensor(source.display())[None, None], size)
        exemplar = to_square(read_image(material.archive.path(record["exemplar_id"]))[None], size)
        moved = warp(exemplar, transport(exemplar, exemplar, film).displacement)
        lesion = from_square(moved, source.stored.shape)[0, 0].numpy()
        display = source.display()
        rim = binary_dilation(region, iterations=max(1, region.shape[0] // 64)) & ~region
        lesion = lesion + (display[rim].mean() - lesion[rim].mean() if rim.any() else 0)
        share = soft_edge(torch.as_tensor(region, dtype=torch.float32)[None, None], FEATHER)[0, 0].numpy()
        return source.paste(np.clip(display + share * (lesion - display), 0, 1), region)

    return _edited(material, "copy_paste", make, lambda record: record["finding"])


def inpaint_again(material: Material, name: str) -> Path:
    """The run's images painted again as the run painted them, but elsewhere or as healthy tissue, as a control.

    Args:
        material: With the run that made the images.
        name: "random_regions" (the region moved to a random place) or "no_change" (see `no_finding`; labelled
            "No Finding").

    Returns:
        The manifest of the images.

    Raises:
        UserError: A record does not say how its image was painted.
    """
    assert material.run is not None
    checkpoint = material.run / "checkpoints" / "inpainting.ckpt"
    loaded: list[InpaintingTask] = []

    def make(record: Row, source: StoredImage, region: Bools) -> StoredImage:
        if not loaded:
            loaded.append(load_inpainter(checkpoint))
        _check_painted(record)
        changed = no_finding(record) if name == "no_change" else record
        place = moved_region(region, record["seed"]) if name == "random_regions" else region
        return paint_record(loaded[0], changed, source, place)

    return _edited(
        material,
        name,
        make,
        lambda record: "No Finding" if name == "no_change" else record["finding"],
        [sha256_file(checkpoint), *PAINTED],
    )


def no_finding(record: Row) -> Row:
    """The record of the same image with healthy tissue asked for.

    Three things differ: no finding, no text (which would name it), and guidance of at most `HEALTHY_GUIDANCE`, as
    wherever healthy tissue is painted. Sex, age, view, seed and the rest stay.
    """
    person = {key: value for key, value in record["condition"].items() if key != "text"}
    return {
        **record,
        "condition": {**person, "findings": []},
        "guidance": at_most(record["guidance"], HEALTHY_GUIDANCE),
    }


def paint_record(inpainter: InpaintingTask, record: Row, source: StoredImage, region: Bools) -> StoredImage:
    """What a record of a run says, painted into its source: the run's image but for rounding."""
    painted = paint_films(
        inpainter,
        [torch.as_tensor(source.display())[None, None]],
        [torch.as_tensor(region, dtype=torch.float32)[None, None]],
        [inpainter.condition(1, **record["condition"])],
        [record["seed"]],
        **{key: record[key] for key in PAINTED},
    )
    return source.paste(painted[0][0, 0].numpy(), region)


def _check_painted(record: Row) -> None:
    missing = [key for key in ("condition", *PAINTED) if key not in record]
    if missing:
        raise UserError(
            f"image {record['id']}: its record in provenance.jsonl lacks {', '.join(missing)}, so it cannot be painted "
            "again; make the run's images with this version of cxrsynth"
        )


def moved_region(region: Bools, seed: int) -> Bools:
    """The same region at a place that the seed decides, anywhere within the image."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    cut = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    generator = np.random.default_rng([seed, 31])
    top, left = (int(generator.integers(whole - part + 1)) for whole, part in zip(region.shape, cut.shape, strict=True))
    result = np.zeros_like(region)
    result[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return result


def rendered(material: Material) -> Path:
    """As many films as there are synthetic images, of the same findings, simulated for patients of their own."""
    assert material.phantom is not None
    settings = material.phantom
    size, severity = int(settings.get("size", 128)), settings.get("severity", (0.2, 1.0))
    wanted = [finding for finding, count in material.asked(0).items() for _ in range(count)]
    folder = material.folder / "images" / "oracle"
    done = _done(folder, [wanted, size, list(severity), material.seed])
    if done is None:
        rows = []
        for number, finding in enumerate(wanted):
            rng = np.random.default_rng([int(settings.get("seed", 0)) + OTHER_FILMS, material.seed, number])
            patient, exposure = Patient.draw(int(rng.integers(2**31))), Exposure.draw(int(rng.integers(2**31)))
            film = render(patient, exposure, [(finding, float(rng.uniform(*severity)))], size)
            name = f"oracle_{number:05d}"
            write_png(folder / f"{name}.png", np.round(film.image.clip(0, 1) * 255).astype(np.uint8))
            about = {"view": exposure.view, "sex": patient.sex, "age": patient.age, "site": "phantom"}
            rows.append({"image_id": name, "path": f"{name}.png", "labels": finding, "patient_id": name, **about})
        done = _finish(folder, rows, [wanted, size, list(severity), material.seed])
    return done


def kept_by_scorer(material: Material, seed: int) -> set[str]:
    """Ids of the synthetic images whose asked finding the scorer sees best: of each finding the share `keep`.

    Where the run accepted its images by this scorer, they are those that it accepted.
    The scorer learned from training patients only and is never the judge (`refuse_same_judge`).
    """
    assert material.scorer is not None
    if material.selected is not None:
        return set(Manifest.load(material.selected).table.image_id)
    images = material.synthetic(seed)
    file = material.folder / "images" / f"scores_{seed % len(material.image_manifests)}.csv"
    stamp = hashlib.sha256(
        f"{sha256_file(material.scorer)}{material.digest(material.images(seed))}".encode()
    ).hexdigest()
    if not (file.is_file() and pd.read_csv(file)["stamp"].iloc[0] == stamp):
        ids = images.table.image_id.tolist()
        scores = _score(material.scorer, [images.path(image_id) for image_id in ids], material)
        asked = [find(split_labels(labels)[0], material.findings) for labels in images.table.labels]
        score = [scores.at[row, finding] if finding else 0.0 for row, finding in enumerate(asked)]
        table = pd.DataFrame({"image_id": ids, "finding": asked, "score": score, "stamp": stamp})
        write_text(file, table.to_csv(index=False, lineterminator="\n"))
    table = pd.read_csv(file, dtype={"image_id": str})
    rank = table.groupby("finding")["score"].rank(ascending=False, pct=True, method="first")
    return set(table.image_id[rank <= material.keep])


def _score(scorer: Path, paths: list[Path], material: Material) -> pd.DataFrame:
    """Probability of each finding by GLoRI's heads or by a classifier."""
    try:
        task = load_attention(str(scorer))
    except UserError:
        return score_files(scorer, paths, material.size)
    size = task.hparams["image_size"]
    with torch.inference_mode():
        rows = [task(to_square(read_image(path), size)[None])[0].sigmoid().numpy() for path in paths]
    return pd.DataFrame(rows, columns=list(task.findings))


def _edited(
    material: Material,
    name: str,
    make: Callable[[Row, StoredImage, Bools], StoredImage],
    label: Callable[[Row], str],
    depends: list[str] | None = None,
) -> Path:
    """One image for each of the run's, of the same source and region."""
    assert material.run is not None
    folder = material.folder / "images" / name
    stamp = [name, material.size, [record["image_sha256"] for record in material.records], depends or []]
    done = _done(folder, stamp)
    if done is not None:
        return done
    source_rows = material.archive.table.set_index("image_id")
    rows = []
    for record in material.records:
        image_id = f"{name}_{record['id']}"
        source = read_stored(material.archive.path(record["source_id"]))
        region = read_stored(inside(material.run, record["region"])).stored > 0
        make(record, source, region).save_png(folder / f"{image_id}.png")
        about = {key: source_rows.at[record["source_id"], key] for key in ABOUT}
        origin = {"source_id": record["source_id"], "exemplar_id": record["exemplar_id"]}
        rows.append({"image_id": image_id, "path": f"{image_id}.png", "labels": label(record), **origin, **about})
    return _finish(folder, rows, stamp)


def _done(folder: Path, stamp: Any) -> Path | None:
    """The manifest of a folder that was finished for this stamp."""
    file = folder / "made.json"
    finished = file.is_file() and file.read_text() == json.dumps(stamp)
    return folder / "manifest.csv" if finished and (folder / "manifest.csv").is_file() else None


def _finish(folder: Path, rows: list[Row], stamp: Any) -> Path:
    manifest = write_text(folder / "manifest.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    write_text(folder / "made.json", json.dumps(stamp))
    return manifest
