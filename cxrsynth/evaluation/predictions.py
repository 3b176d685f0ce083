"""Predictions of a classifier as a table: `image_id, patient_id, split, <finding>_prob, <finding>_true`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cxrsynth.checkpoints import check_finite
from cxrsynth.classification.task import ClassificationTask
from cxrsynth.data.datamodule import CXRDataModule
from cxrsynth.data.geometry import to_square
from cxrsynth.data.labels import find
from cxrsynth.data.reading import read_image
from cxrsynth.errors import UserError
from cxrsynth.files import write_text

KEYS = ("image_id", "patient_id", "split")


def load_classifier(checkpoint: str | Path) -> ClassificationTask:
    """A trained classifier on the CPU, in eval mode, read with `weights_only=True`.

    Raises:
        UserError: The file is missing, is not a classifier's checkpoint, or its weights are not finite.
    """
    try:
        task = ClassificationTask.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and Lightning raise many kinds on foreign files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint {checkpoint} is not a classifier's ({reason}); train one first") from error
    check_finite(task, checkpoint)
    return task.eval()


def predict_split(checkpoint: str | Path, datamodule: CXRDataModule) -> pd.DataFrame:
    """Classify the images of the datamodule's `predict_split`.

    Args:
        checkpoint: A `ClassificationTask`'s checkpoint.
        datamodule: The archive, with the findings and the image size that the classifier was trained on.

    Returns:
        One row an image, sorted by `image_id`; probabilities in [0, 1], truths 1, 0 or NaN (unknown).

    Raises:
        UserError: The checkpoint cannot be read, its findings are others, or the split is empty.
    """
    task = load_classifier(checkpoint)
    datamodule.setup("predict")
    if task.findings != datamodule.findings:
        raise UserError(
            f"{checkpoint} knows {', '.join(task.findings)} but the data has {', '.join(datamodule.findings)}; "
            "use the findings it was trained on, in the same order"
        )
    ids: list[str] = []
    truths: list[Tensor] = []
    probabilities: list[Tensor] = []
    for batch in datamodule.predict_dataloader():
        ids += batch["image_id"]
        truths.append(batch["target"])
        probabilities.append(_probabilities(task, batch["image"]))
    if not ids:
        raise UserError(f"predict_split {datamodule.hparams['predict_split']!r} has no images; choose another split")
    table = datamodule.split_table.set_index("image_id").loc[ids, ["patient_id", "split"]].reset_index()
    for suffix, values in (("_prob", probabilities), ("_true", truths)):
        table[[f"{finding}{suffix}" for finding in task.findings]] = torch.cat(values).numpy()
    return table.sort_values("image_id", ignore_index=True)


def score_files(checkpoint: str | Path, paths: Sequence[str | Path], size: int, batch_size: int = 32) -> pd.DataFrame:
    """Classify image files as they are on the disk, for example sources and results.

    Args:
        checkpoint: A `ClassificationTask`'s checkpoint.
        paths: Images in any form that `read_image` takes.
        size: Side of the squares that the classifier sees, pixels.
        batch_size: Images in a forward.

    Returns:
        One row a path, in their order, one column of probabilities a finding.

    Raises:
        UserError: The checkpoint or an image cannot be read.
    """
    task = load_classifier(checkpoint)
    batches = _squares(paths, size, batch_size)
    probabilities = [_probabilities(task, batch).numpy() for batch in batches]
    rows = [row for batch in probabilities for row in batch]
    return pd.DataFrame(rows, columns=task.findings)


def write_predictions(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a prediction table as CSV; floats keep nine digits, which hold a float32 exactly."""
    return write_text(path, table.to_csv(index=False, lineterminator="\n", float_format="%.9g"))


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read what `write_predictions` wrote.

    Raises:
        UserError: The file cannot be read or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(KEYS, str))
    except (OSError, ValueError) as error:
        raise UserError(f"predictions {path} cannot be read ({error}); predict the split again") from error
    if missing := [key for key in KEYS if key not in table]:
        raise UserError(f"predictions {path} lack {', '.join(missing)}; predict the split again")
    return table


def read_reference(path: str | Path, findings: Sequence[str]) -> pd.DataFrame:
    """Another model's predictions: a table with `image_id` and `prob_FINDING` columns, names as usual synonyms allow.

    Returns:
        Indexed by `image_id`, columns `FINDING_prob` of those of `findings` that it has.

    Raises:
        UserError: The file cannot be read, or has no `image_id`.
    """
    try:
        table = pd.read_csv(path, dtype={"image_id": str}).set_index("image_id")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"reference {path} cannot be read ({error}); give a table image_id, prob_FINDING, ..."
        ) from error
    columns = [str(column) for column in table.columns if str(column).startswith("prob_")]
    names = {column: find(column.removeprefix("prob_"), findings) for column in columns}
    return table.rename(columns={column: f"{name}_prob" for column, name in names.items() if name})


def _squares(paths: Sequence[str | Path], size: int, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(paths), batch_size):
        yield torch.stack([to_square(read_image(path), size) for path in paths[start : start + batch_size]])


@torch.inference_mode()
def _probabilities(task: ClassificationTask, image: Tensor) -> Tensor:
    return task.predict_step({"image": image}, 0)
