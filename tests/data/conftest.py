from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image


def write_picture(path: Path, seed: int, shape: tuple[int, int] = (40, 32)) -> None:
    """A smooth random picture, different for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(shape[::-1], Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Writes an archive with one picture per row and returns its manifest."""

    def make(rows: list[dict], name: str = "archive") -> Path:
        root = tmp_path / name
        table = pd.DataFrame(rows)
        table["path"] = [f"images/{image_id}.png" for image_id in table.image_id]
        for number, path in enumerate(table.path):
            write_picture(root / path, seed=number)
        table.to_csv(root / "metadata.csv", index=False)
        return root / "metadata.csv"

    return make


@pytest.fixture
def patients(archive) -> Path:
    """60 images of 30 patients; findings A (rare), B and none."""
    labels = ["No Finding", "B", "No Finding", "A|B", "B", "No Finding"]
    return archive(
        [
            {
                "image_id": f"i{n:02d}",
                "labels": labels[n % 6],
                "patient_id": f"p{n // 2:02d}",
                "view": "PA" if n % 4 < 2 else "AP",
                "site": "here",
                "age": 30 + n,
                "sex": "F",
            }
            for n in range(60)
        ]
    )
