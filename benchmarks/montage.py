"""One row of pictures a kind of guidance, by the shipped inpainter of NIH's films, on patients it was not trained on.

python benchmarks/montage.py runs/nih/archive docs/guidance_nih.png

Each row shows two patients: the film with the outline of what is painted, the result, and the change (grey = none).
Films, regions and seeds are drawn once, with a seed: nothing is picked by its result.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from cxrsynth.data import Manifest, read_image
from cxrsynth.editing.edit import edit
from cxrsynth.files import write_bytes
from cxrsynth.inpainting import load_inpainter

TILE = 160
SEED = 2

Film = NDArray[np.float32]


def ellipse(shape: tuple[int, int], x: float, y: float, width: float, height: float) -> NDArray[np.bool_]:
    """A hand-drawn region: centre and half axes as shares of the film."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    across, down = columns / shape[1] - x, rows / shape[0] - y
    return (across / width) ** 2 + (down / height) ** 2 < 1


def kinds(film: Film) -> dict[str, dict[str, Any]]:
    """What each kind of guidance is asked for."""
    height, width = film.shape
    box = [int(width * 0.58), int(height * 0.42), int(width * 0.86), int(height * 0.72)]
    return {
        "label: Effusion, where it lies on average": {"finding": "Effusion"},
        "text: There is cardiomegaly. No effusion.": {
            "text": "There is cardiomegaly. No effusion.",
            "mask": ellipse(film.shape, 0.52, 0.62, 0.28, 0.2),
        },
        "mask: Infiltration": {"finding": "Infiltration", "mask": ellipse(film.shape, 0.28, 0.5, 0.12, 0.22)},
        "box: Pneumonia": {"finding": "Pneumonia", "box": box},
        "full: a woman of 60, AP, Effusion": {
            "finding": "Effusion",
            "full": True,
            "view": "AP",
            "sex": "F",
            "age": 60.0,
        },
    }


def tiles(source: Film, made: Film, region: NDArray[np.bool_]) -> list[NDArray[np.uint8]]:
    """Film with outline, result, change."""
    outlined = source.copy()
    edge = region & ~binary_erosion(region, iterations=3)
    outlined[edge] = 1
    change = np.clip(0.5 + (made - source), 0, 1)
    return [
        np.asarray(Image.fromarray(np.round(np.clip(part, 0, 1) * 255).astype(np.uint8)).resize((TILE, TILE)))
        for part in (outlined, made, change)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", default="nih")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = load_inpainter(options.checkpoint)
    manifest = Manifest.load(options.archive / "metadata.csv")
    test = manifest.select(ids=set(manifest.table[manifest.table.split == "test"].image_id))
    healthy = test.table[test.healthy & (test.table.view == "PA")].sample(10, random_state=SEED)
    boxed = test.boxes[test.boxes.label == "Pneumonia"].drop_duplicates("image_id").sample(2, random_state=SEED)
    rows = []
    for number, kind in enumerate([*kinds(np.zeros((8, 8), np.float32)), "removal"]):
        pictures = []
        for column in range(2):
            if kind == "removal":
                row = boxed.iloc[column]
                image_id = str(row.image_id)
                film = read_image(test.path(image_id))[0].numpy()
                box = [round(float(row[name])) for name in ("x_min", "y_min", "x_max", "y_max")]
                asked: dict[str, Any] = {"finding": "Pneumonia", "remove": True, "box": box}
            else:
                image_id = str(healthy.image_id.iloc[2 * number + column])
                film = read_image(test.path(image_id))[0].numpy()
                asked = kinds(film)[kind]
            edited = edit(film, checkpoint=task, seed=SEED + column, **asked)
            pictures += tiles(film, edited.pixels, edited.region)
            print(f"# {kind}: {image_id}, exact outside: {bool((edited.pixels == film)[~edited.region].all())}")
        rows.append(np.concatenate(pictures, 1))
    picture = Image.fromarray(np.concatenate(rows))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    write_bytes(options.out, buffer.getvalue())
    print(f"# {options.out}: {picture.size[0]} x {picture.size[1]}, {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
