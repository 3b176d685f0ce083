"""Paint one image, of any size and bit depth, as it was asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrsynth import __version__
from cxrsynth.attention.task import GLoRITask
from cxrsynth.data.labels import canonical
from cxrsynth.data.reading import StoredImage, write_png
from cxrsynth.editing.dicom import write_derived
from cxrsynth.editing.native import Canvas, FloatCanvas, NativeWindow, bounding_slices
from cxrsynth.editing.region import Bools, from_average, from_box, from_exemplar, from_mask
from cxrsynth.editing.source import Pixels, check_suffix, open_source
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file
from cxrsynth.inpainting.guidance import HEALTHY_GUIDANCE, Weights, at_most
from cxrsynth.inpainting.task import InpaintingTask, load_inpainter
from cxrsynth.inpainting.weights_file import find_inpainter
from cxrsynth.synthesis.task import load_attention


@dataclass(frozen=True)
class Edited:
    """A painted image.

    Attributes:
        pixels: `[H, W]`, of the type that came in; wherever `region` is False equal to the source, bit for bit.
        region: bool `[H, W]`, where it was painted.
        record: What was asked, and with what it was made.
        image: The stored image that `pixels` belong to; None where floats came in.
        source: File of the source; None where an array came in.
    """

    pixels: NDArray[Any]
    region: Bools
    record: dict[str, Any]
    image: StoredImage | None
    source: Path | None

    def save(self, path: str | Path) -> Path:
        """Write the image: PNG of its size and depth (floats as 8 bits), or from DICOM a derived DICOM image.

        Raises:
            UserError: A suffix that does not fit, or the file cannot be written.
        """
        check_suffix(path, self.source)
        if Path(path).suffix.lower() != ".png":
            assert self.source is not None
            return write_derived(path, self.source, self.pixels, _description(self.record), repr(self.record))
        return write_png(path, self.pixels) if self.image is None else self.image.save_png(path)


def edit(
    image: str | Path | StoredImage | Pixels,
    *,
    checkpoint: str | Path | InpaintingTask = "nih",
    finding: str | Sequence[str] | None = None,
    mask: str | Path | Pixels | None = None,
    box: Sequence[int] | None = None,
    map_from: str | Path | None = None,
    full: bool = False,
    text: str = "",
    view: str = "",
    sex: str = "",
    age: float = math.nan,
    remove: bool = False,
    strength: float = 1.0,
    solver: str | None = None,
    steps: int | None = None,
    guidance: Weights | None = None,
    seed: int = 0,
    feather: int | None = None,
    attention: str | Path | GLoRITask | None = None,
    device: str = "cpu",
) -> Edited:
    """Paint a finding into an image, or out of it, and touch nothing else.

    A window around the region is painted at the inpainter's working resolution; the change is resampled inside the
    region only and added there. Where to paint is said by at most one of `mask`, `box`, `map_from` and `full`; by none
    of them it is a place of usual size, drawn by the seed from where the (first) finding lay in the training images.

    A film painted in `full` is new: nothing of the source is in it (unless `strength` is below 1), and what is asked
    for is painted a second time at its usual place, in a window of its own.

    Args:
        image: A file (PNG, JPEG, DICOM), a `StoredImage`, or an array `[H, W]` (leading dimensions of 1 allowed): uint8
            or uint16 as stored, or floats in [0, 1]. What is given is not changed.
        checkpoint: `nih` or `phantom`, which come with the package, the path of an inpainter, or the task that
            `load_inpainter` gives.
        finding: What to show, or what is removed; several with | between them or as a list. Synonyms are understood.
        mask: A file or an array of the image's size; pixels above half of its largest value are painted.
        box: x0, y0, x1, y1 in pixels of the image, half open.
        map_from: File of an image that shows the finding: its attention map is carried over by registration.
        full: Paint the whole image.
        text: Free text; as are the next three, only for an inpainter that was trained with it. Without `finding`, what
            the text denies ("a nodule, no effusion") is absent; a text that denies alone asks for healthy tissue.
        view: PA or AP, as the inpainter names them.
        sex: F or M.
        age: Years; NaN = not said.
        remove: Paint healthy tissue instead: every finding absent.
        strength: See `cxrsynth.inpainting.inpaint`.
        solver: See `integrate`; None = the inpainter's own, as for the next two.
        steps: Of the solver.
        guidance: See `Guided`; by default at most `HEALTHY_GUIDANCE` where every finding is absent.
        seed: Of the noise, and of a place that is not named; 0 or more.
        feather: See `NativeWindow.paste`.
        attention: For `map_from`: an `attention.ckpt` or its task; None = the one beside the inpainter's.
        device: Where to paint.

    Raises:
        UserError: Whatever cannot be used, in one sentence.
    """
    names = _names(finding)
    _check_request(
        names, mask, box, map_from, full, text, remove, bool(view or sex or not math.isnan(age)), seed, feather
    )
    task, digests = _load(checkpoint, device)
    known = list(task.hparams["findings"])
    names = [canonical(name, known) for name in names]
    condition = task.condition(1, [] if remove else names or None, text, view, sex, age)
    canvas, stored, source = open_source(image)

    where: dict[str, Any] = {}
    if mask is not None:
        region, kind = from_mask(mask, canvas.shape), "mask"
    elif box is not None:
        region, kind = from_box(box, canvas.shape), "box"
    elif full:
        region, kind = np.broadcast_to(np.array([[True]]), canvas.shape), "full"  # takes no memory
    elif map_from is not None:
        queries, digest = _load_attention(attention, checkpoint)
        digests |= digest
        region, where["registration"] = from_exemplar(map_from, canvas, queries, names[0])
        where |= {"exemplar": str(map_from), "exemplar_sha256": sha256_file(map_from)}
        kind = "map_from"
    else:
        region, kind = from_average(task, names[0], canvas.shape, seed)

    hp = task.hparams
    own = at_most(hp["guidance"], HEALTHY_GUIDANCE) if (condition.findings == 0).all() else hp["guidance"]
    settings: dict[str, Any] = {
        "solver": solver or hp["solver"],
        "steps": hp["steps"] if steps is None else steps,
        "guidance": own if guidance is None else guidance,
        "strength": strength,
    }
    options = {"condition": condition.to(device), "seeds": [seed], **settings}
    window, before, painted = _paint(task, canvas, region, options)
    if full and strength == 1:
        window.replace(canvas, painted)  # a new film: nothing of the source may shine through
        boxes = [_add_detail(task, canvas, name, seed, options) for name in names if not remove]
        where["details"] = [box for box in boxes if box]
    else:
        window.paste(canvas, painted - before, region, feather)

    record = {
        "source": None if source is None else source.name,
        "source_sha256": None if source is None else sha256_file(source),
        "finding": names,
        "remove": remove,
        "region": {
            "from": kind,
            "pixels": int(region.sum()),
            "box": _box(region),
            **where,
        },
        "condition": {
            **{"findings": [] if remove else names, "text": text, "view": view, "sex": sex},
            "absent": [name for name, value in zip(known, condition.findings[0].tolist(), strict=True) if value == 0],
            "age": None if math.isnan(age) else age,
        },
        **settings,
        "seed": seed,
        "window": [window.left, window.top, window.side],
        "checkpoints": digests,
        "version": __version__,
    }
    pixels = canvas.pixels if isinstance(canvas, FloatCanvas) else canvas.image.stored
    return Edited(pixels, np.ascontiguousarray(region), record, stored, source)


def _paint(
    task: InpaintingTask, canvas: Canvas, region: Bools, options: dict[str, Any]
) -> tuple[NativeWindow, Tensor, Tensor]:
    """The window around a region, and what is in it before and after, `[1, 1, size, size]`."""
    size, device = task.hparams["size"], task.device
    window = NativeWindow.around(region, task.hparams["context"], task.hparams["minimum"])
    before = window.crop(canvas, size)
    painted = task.paint(
        before.to(device),
        window.crop_region(region, size).to(device),
        window.coordinates(size, canvas.shape).to(device),
        **options,
    ).cpu()
    if not painted.isfinite().all():
        raise UserError("painting gave values that are not finite; lower guidance, or take another checkpoint")
    return window, before, painted


def _add_detail(task: InpaintingTask, canvas: Canvas, finding: str, seed: int, options: dict[str, Any]) -> list[int]:
    """Paint a finding of a new film again, at its usual place: it may be smaller than what a whole film shows.

    Returns:
        The place's box, as in the record; empty where the inpainter knows no usual size.
    """
    if task.average_maps.area(list(task.hparams["findings"]).index(finding)) is None:
        return []
    region, _ = from_average(task, finding, canvas.shape, seed)
    window, before, painted = _paint(task, canvas, region, options)
    window.paste(canvas, painted - before, region)
    return _box(region)


def _box(region: Bools) -> list[int]:
    """x0, y0, x1, y1 about a region, half open."""
    rows, columns = bounding_slices(region)
    return [columns.start, rows.start, columns.stop, rows.stop]


def _names(finding: str | Sequence[str] | None) -> list[str]:
    parts = [] if finding is None else finding.split("|") if isinstance(finding, str) else list(finding)
    return [part.strip() for part in parts if part.strip()]


def _check_request(
    names: list[str],
    mask: Any,
    box: Any,
    map_from: Any,
    full: bool,
    text: str,
    remove: bool,
    patient: bool,
    seed: int,
    feather: int | None,
) -> None:
    given = [n for n, v in (("mask", mask), ("box", box), ("map_from", map_from)) if v is not None] + ["full"] * full
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are given; say where to paint by one of them")
    if not names and not text.strip() and not remove and not (full and patient):
        raise UserError("nothing is asked for; give finding or text, or remove")
    if not names and not set(given) & {"mask", "box", "full"}:
        raise UserError(
            "it is not said where to paint; give mask, box or full, or a finding, which has its usual place"
        )
    if remove and text.strip():
        raise UserError("remove and text are both given; a removal paints what is healthy, so leave the text out")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}; give a whole number from 0 to 2**63 - 1")
    if feather is not None and feather < 0:
        raise UserError(f"feather is {feather}; give a width in pixels, 0 or more")


def _load(checkpoint: str | Path | InpaintingTask, device: str) -> tuple[InpaintingTask, dict[str, str]]:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {device!r} cannot be used here; give cpu, or a GPU that `cxrsynth doctor` shows"
        ) from error
    if isinstance(checkpoint, InpaintingTask):
        return checkpoint.eval().to(device), {}
    task = load_inpainter(checkpoint, device)
    return task, {"inpainting": sha256_file(find_inpainter(checkpoint))}


def _load_attention(
    attention: str | Path | GLoRITask | None, checkpoint: str | Path | InpaintingTask
) -> tuple[GLoRITask, dict[str, str]]:
    if isinstance(attention, GLoRITask):
        return attention.eval(), {}
    if attention is None and isinstance(checkpoint, InpaintingTask):
        raise UserError("map_from needs the disease queries: give attention, the path of an attention.ckpt")
    path = Path(attention) if attention else find_inpainter(str(checkpoint)).with_name("attention.ckpt")
    if not path.is_file():
        raise UserError(f"map_from needs the disease queries, and there is no {path}; give attention, or mask or box")
    return load_attention(str(path)), {"attention": sha256_file(path)}


def _description(record: dict[str, Any]) -> str:
    what = ", ".join(record["finding"]) or record["condition"]["text"] or "tissue"
    done = f"removed: {what}" if record["remove"] else f"painted: {what}"
    left, top, right, bottom = record["region"]["box"]
    return (
        f"Synthetic image, not for clinical use. cxrsynth {record['version']}, {done}, in columns {left} to {right} "
        f"and rows {top} to {bottom}; seed {record['seed']}. Pixels outside the region are those of the source."
    )
