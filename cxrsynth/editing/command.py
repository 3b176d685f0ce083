"""`cxrsynth inpaint`: one image from the command line."""

import math
from pathlib import Path
from typing import Any

from cxrsynth.data.reading import write_png
from cxrsynth.editing.edit import Edited, edit
from cxrsynth.editing.source import check_suffix
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file, write_json
from cxrsynth.inpainting.weights_file import SHIPPED

DEFAULT = "nih"


def inpaint(
    image: str,
    out: str,
    checkpoint: str = DEFAULT,
    finding: str | None = None,
    mask: str | None = None,
    box: str | None = None,
    map_from: str | None = None,
    full: bool = False,
    text: str = "",
    view: str = "",
    sex: str = "",
    age: float | None = None,
    remove: bool = False,
    strength: float = 1.0,
    solver: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    feather: int | None = None,
    attention: str | None = None,
    device: str = "cpu",
    region_out: str | None = None,
    overwrite: bool = False,
) -> str:
    """Paint a finding into an image, or out of it; outside the region every stored value stays as it is.

    Where to paint: mask, box, map_from or full; none of them = a usual place of the finding's, drawn by the seed.

    Args:
        image: PNG, JPEG or DICOM, of any size, grey.
        out: The file to write: .png, in the image's size and depth, or for a DICOM image .dcm, a derived DICOM file.
            Beside it a .json file of the same name says how it was made.
        checkpoint: An inpainter: nih or phantom, which come with the package, or the path of one.
        finding: What to show, or with remove what to take away; several with | between them. Synonyms are understood.
        mask: An image of the same size, white where to paint.
        box: x0,y0,x1,y1 in pixels of the image, half open.
        map_from: An image that shows the finding; its attention map is carried over by registration.
        full: Paint a whole new film, of which nothing is the image's unless strength is below 1.
        text: Free text, for an inpainter that was trained with it; as are view, sex and age. "No effusion" paints none.
        view: PA or AP.
        sex: F or M.
        age: Years.
        remove: Paint healthy tissue instead.
        strength: How far the region may leave the image, from 0 (not at all) to 1 (painted from nothing).
        solver: euler, midpoint, heun, rk4 or dopri5; default as trained, as for steps and guidance.
        steps: Steps of the solver.
        guidance: Weight of the condition; 1 = as learned, above 1 = exaggerated.
        seed: Another seed, another painting.
        feather: Pixels over which the change fades in, inside the region.
        attention: For map_from: an attention.ckpt; default the one beside the checkpoint.
        device: cpu or cuda.
        region_out: A PNG of the region, 0 and 255.
        overwrite: Replace files that are there already.

    Returns:
        One sentence about what was written.
    """
    path = Path(out)
    _check_outputs(path, region_out, [image, *(file for file in (mask, map_from) if file)], overwrite)
    check_suffix(out, Path(image))
    edited = edit(
        image,
        checkpoint=checkpoint,
        finding=finding,
        mask=mask,
        box=None if box is None else parse_box(box),
        map_from=map_from,
        full=full,
        text=text,
        view=view,
        sex=sex,
        age=math.nan if age is None else age,
        remove=remove,
        strength=strength,
        solver=solver,
        steps=steps,
        guidance=guidance,
        seed=seed,
        feather=feather,
        attention=attention,
        device=device,
    )
    save(edited, path, region_out)
    left, top, right, bottom = edited.record["region"]["box"]
    share = edited.record["region"]["pixels"] / edited.pixels.size
    which = f" by the inpainter {checkpoint} that comes with the package" if checkpoint in SHIPPED else ""
    return (
        f"{out}: {share:.1%} of the image painted{which}, within columns {left} to {right} and rows {top} to {bottom}"
    )


def save(edited: Edited, out: Path, region_out: str | Path | None = None) -> dict[str, Any]:
    """Write an edited image, its record, and perhaps its region; the record comes last, so it speaks of whole files.

    Returns:
        The record.
    """
    record = {"image": out.name, **edited.record}
    made: list[Path] = []
    try:
        if region_out is not None:
            made.append(write_png(region_out, edited.region.astype("uint8") * 255))
        made.append(edited.save(out))
        record["image_sha256"] = sha256_file(out)
        write_json(record_path(out), record)
    except BaseException:
        for path in made:
            path.unlink()
        raise
    return record


def record_path(out: Path) -> Path:
    """Where the record of an edited image lies."""
    return out.with_name(f"{out.stem}.json")


def parse_box(text: str) -> list[int]:
    """`x0,y0,x1,y1` as numbers.

    Raises:
        UserError: Anything else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"box is {text!r}; give x0,y0,x1,y1 in whole pixels") from error


def _check_outputs(out: Path, region_out: str | None, inputs: list[str], overwrite: bool) -> None:
    """Nothing that is there is lost by accident, and nothing that is read is ever written over."""
    files = [out, record_path(out), *([Path(region_out)] if region_out else [])]
    if region_out is not None and Path(region_out).suffix.lower() != ".png":
        raise UserError(f"region_out is {region_out}; its name must end in .png")
    if len({file.resolve() for file in files}) < len(files):
        raise UserError(f"out and region_out would both be written to {region_out}; give two names")
    for file in files:
        if file.resolve() in {Path(name).resolve() for name in inputs}:
            raise UserError(f"{file} is read for this edit; write to another file")
        if file.exists() and not overwrite:
            raise UserError(f"{file} is there already; give another out, or overwrite to replace it")
