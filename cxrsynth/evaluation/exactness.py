"""The promise, checked on the files: outside the region every stored value equals the source's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cxrsynth.data.reading import read_stored
from cxrsynth.data.stored import DISPLAY_LEVELS, StoredImage
from cxrsynth.errors import UserError
from cxrsynth.files import inside
from cxrsynth.synthesis.provenance import read_provenance


@dataclass
class Exactness:
    """What the files say.

    Attributes:
        images: Images checked.
        exact: Images whose pixels outside the region all equal the source's.
        offenders: What is wrong, by image id: a changed pixel, another size, an unreadable file.
        painted: Share of each image's pixels that lie in its region, by image id.
    """

    images: int = 0
    exact: int = 0
    offenders: dict[str, str] = field(default_factory=dict)
    painted: dict[str, float] = field(default_factory=dict)


def check_exactness(
    run_folder: str | Path, manifest_folder: str | Path, records: Iterable[Mapping[str, Any]] | None = None
) -> Exactness:
    """Read source, region and result of every record again and compare the stored values outside the region.

    Args:
        run_folder: Holds `provenance.jsonl`, and `image` and `region` of each record.
        manifest_folder: Holds `source_path` of each record.
        records: The records to check; all of `provenance.jsonl` when None.

    Returns:
        Counts and offenders. A file that cannot be read makes its image an offender.
    """
    result = Exactness()
    for record in read_provenance(run_folder) if records is None else records:
        result.images += 1
        identity = str(record["id"])
        try:
            source = read_stored(inside(manifest_folder, record["source_path"]))
            made = read_stored(inside(run_folder, record["image"]))
            region = read_stored(inside(run_folder, record["region"])).stored > 0
        except (KeyError, UserError) as error:
            result.offenders[identity] = str(error)
            continue
        result.painted[identity] = float(region.mean())
        if problem := difference_outside(source, made, region):
            result.offenders[identity] = problem
        else:
            result.exact += 1
    return result


def difference_outside(source: StoredImage, made: StoredImage, region: np.ndarray) -> str | None:
    """What differs outside the region in one sentence, or None when nothing does.

    Args:
        source: The source as stored.
        made: The result as stored.
        region: Bool `[H, W]`, True = painted.
    """
    if not source.stored.shape == made.stored.shape == region.shape:
        return f"sizes differ: source {source.stored.shape}, result {made.stored.shape}, region {region.shape}"
    # A PNG holds no negative values: signed ones are raised, and their display curve begins as much higher.
    shift = made.minimum - source.minimum if source.stored.dtype == np.int16 else 0
    changed = (made.stored.astype(np.int64) - shift != source.stored.astype(np.int64)) & ~region
    if changed.any():
        row, column = np.argwhere(changed)[0]
        return f"{int(changed.sum())} pixels outside the region changed, the first at row {row}, column {column}"
    if not np.allclose(source.display()[~region], made.display()[~region], rtol=0, atol=1 / DISPLAY_LEVELS):
        return "the result is displayed through another curve than the source"
    return None
