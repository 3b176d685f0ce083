"""Judges of synthetic images that never saw one: a classifier of real images and, for phantoms, the oracle."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.phantom.oracle import measure
from cxrsynth.data.reading import read_image
from cxrsynth.evaluation.effects import paired_scores
from cxrsynth.evaluation.predictions import score_files

PHANTOM_SITE = "phantom"
Scorer = Callable[[list[Path]], pd.DataFrame]


def score_effects(run_folder: Path, manifest: Manifest, classifier: Path, size: int) -> pd.DataFrame:
    """Score each synthetic image and its source.

    Args:
        run_folder: Holds provenance.jsonl and the images.
        manifest: The archive of the sources.
        classifier: Checkpoint of a classifier trained on real images only.
        size: Side of the squares that it sees.

    Returns:
        Rows of `cxrsynth.evaluation.effects.COLUMNS`, for the classifier and, on phantoms, for the oracle.
    """
    records = [json.loads(line) for line in (run_folder / "provenance.jsonl").read_text().splitlines()]
    made = pd.DataFrame(records, columns=["id", "image", "source_id", "finding"])
    sources = sorted(set(made["source_id"]))
    patients = dict(zip(manifest.table["image_id"], manifest.table["patient_id"], strict=True))
    scorers: dict[str, Scorer] = {"classifier": lambda paths: score_files(classifier, paths, size)}
    if (manifest.table["site"] == PHANTOM_SITE).all():
        scorers["oracle"] = _oracle
    rows = []
    for name, score in scorers.items():
        before = score([manifest.path(source) for source in sources]).set_axis(sources)
        after = score([run_folder / image for image in made["image"]]).set_axis(made["id"])
        rows.append(paired_scores(made, before, after, name, patients))
    return pd.concat(rows, ignore_index=True)


def _oracle(paths: list[Path]) -> pd.DataFrame:
    return pd.DataFrame([measure(np.asarray(read_image(path)[0])) for path in paths])
