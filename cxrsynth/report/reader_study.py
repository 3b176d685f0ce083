"""`cxrsynth reader-study`: a blinded page for radiologists that works without a network, and what their answers say."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_image
from cxrsynth.errors import UserError
from cxrsynth.evaluation.readers import agreement, reader_scores
from cxrsynth.files import inside, write_json, write_text
from cxrsynth.report import figures
from cxrsynth.report.answers import listing
from cxrsynth.report.collect import RunFolder, open_run
from cxrsynth.report.page import page_template
from cxrsynth.report.summary import plain

SIDE = 512  # longest side of an image on the page, pixels

Item = dict[str, Any]


def reader_study(
    run: str, out: str | None = None, count: int = 40, seed: int = 0, answers: list[str] | None = None
) -> str:
    """Make a page for readers, or compute what they answered.

    Half of the images are synthetic, half real held-out ones with the same findings, in an order that says nothing. For
    each the reader says whether it is real, whether it shows a finding, and where. The page holds no key.

    Args:
        run: A run folder with images.
        out: Folder of page and key; None = study/readers in the run folder.
        count: Number of images.
        seed: Seed of the choice and the order.
        answers: Files that readers saved; then their results are written instead of the page.

    Returns:
        One sentence about what was written.

    Raises:
        UserError: There are too few images, or a file of answers is of another study.
    """
    folder = Path(out) if out else Path(run) / "study" / "readers"
    if answers:
        return _results(folder, [Path(path) for path in answers])
    items = choose_items(open_run(run), count, seed)
    key = {item["item"]: {name: item[name] for name in ("kind", "shows", "box", "image", "asked")} for item in items}
    study = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    shown = [{name: item[name] for name in ("item", "asked", "uri")} for item in items]
    page = page_template("readers.html.j2").render(study=study, items=shown)
    write_json(folder / "key.json", {"study": study, "items": key})
    write_text(folder / "readers.html", page)
    return f"{folder / 'readers.html'}: {len(items)} images; keep {folder / 'key.json'} from the readers"


def choose_items(run: RunFolder, count: int, seed: int) -> list[Item]:
    """Synthetic images of the run and as many real held-out ones with the same findings, mixed.

    Every second image of either kind is asked after a finding that it is not labelled with.
    """
    if not run.records or run.manifest is None or run.splits is None:
        raise UserError(f"run {run.path} has no images, archive or split; run the pipeline first")
    archive = Manifest.load(run.manifest)
    held_out = set(run.splits.image_id[run.splits.split != "train"])
    real = archive.select(ids=held_out)
    findings = sorted({record["finding"] for record in run.records})
    has = real.targets(findings).numpy() == 1
    candidates = [(i, f) for i, row in zip(real.table.image_id, has, strict=True) for f in np.array(findings)[row][:1]]
    half = count // 2
    if len(candidates) < half or len(run.records) < half or half < 1 or len(findings) < 2:
        raise UserError(
            f"count is {count}, but there are {len(run.records)} synthetic images and {len(candidates)} real ones of "
            f"{len(findings)} findings; give a smaller count, of a run with two findings or more"
        )
    generator = np.random.default_rng([seed, 51])
    chosen: list[Item] = []
    for place in generator.permutation(len(run.records))[:half]:
        record = run.records[place]
        region = read_image(inside(run.path, record["region"]))[0].numpy() > 0.5
        chosen.append({"kind": "synthetic", "image": record["id"], "finding": record["finding"], "box": box_of(region),
                       "path": inside(run.path, record["image"])})  # fmt: skip
    for place in generator.permutation(len(candidates))[:half]:
        image_id, finding = candidates[place]
        chosen.append({"kind": "real", "image": image_id, "finding": str(finding), "path": archive.path(image_id),
                       "box": _real_box(archive, image_id, str(finding))})  # fmt: skip
    for number, item in enumerate(chosen):
        others = [finding for finding in findings if finding != item["finding"]]
        item["shows"] = number % 2 == 0
        item["asked"] = item["finding"] if item["shows"] else others[int(generator.integers(len(others)))]
        item["box"] = item["box"] if item["shows"] else None
        item["uri"] = figures.grey(read_image(item["path"])[0].numpy(), SIDE)
    order = generator.permutation(len(chosen))
    return [{**chosen[place], "item": f"{number + 1:03d}"} for number, place in enumerate(order)]


def box_of(region: Any) -> list[float] | None:
    """The box around a region `[H, W]` as shares of the image: x0, y0, x1, y1."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return None
    height, width = region.shape
    return [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]


def _real_box(archive: Manifest, image_id: str, finding: str) -> list[float] | None:
    boxes = archive.boxes[(archive.boxes.image_id == image_id) & (archive.boxes.label == finding)]
    if boxes.empty:
        return None
    height, width = read_image(archive.path(image_id)).shape[-2:]
    x0, y0, x1, y1 = boxes[["x_min", "y_min", "x_max", "y_max"]].to_numpy(float)[0]
    return [x0 / width, y0 / height, x1 / width, y1 / height]


def _results(folder: Path, files: list[Path]) -> str:
    key = json.loads(_read(folder / "key.json"))
    readers: dict[str, Any] = {}
    for file in files:
        content = json.loads(_read(file))
        if not isinstance(content, dict) or content.get("study") != key["study"]:
            raise UserError(f"answers {file} are of another study; give files that readers saved from this page")
        readers[str(content.get("reader") or file.stem)] = content["answers"]
    result = {
        "study": key["study"],
        "readers": {name: reader_scores(key["items"], answers) for name, answers in readers.items()},
        "agreement": {question: agreement(readers, question) for question in ("kind", "shows")},
    }
    write_json(folder / "readers.json", plain(result))
    told = [f"{name} {100 * scores['told_apart']['share']:.0f} %" for name, scores in result["readers"].items()]
    return f"{folder / 'readers.json'}: real and synthetic told apart by {listing(told)} (chance 50 %)"


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; make the page first, or give the file's path"
        ) from error
