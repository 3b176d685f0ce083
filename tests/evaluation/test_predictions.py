import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxrsynth.classification.task import ClassificationTask
from cxrsynth.data import CXRDataModule
from cxrsynth.errors import UserError
from cxrsynth.evaluation.predictions import predict_split, read_predictions, score_files, write_predictions


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Twelve random images of six patients with two findings, half of them of the test split, and a classifier."""
    folder = tmp_path_factory.mktemp("archive")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(12):
        Image.fromarray(generator.integers(0, 255, (40, 32)).astype(np.uint8)).save(folder / f"{number}.png")
        labels = ("A", "A|B", "No Finding", "B")[number % 4]
        split = "test" if number < 6 else "train"
        row = {"image_id": f"i{number:02d}", "path": f"{number}.png", "labels": labels, "split": split}
        rows.append({**row, "patient_id": f"p{number // 2}", "unknown": "B" if number == 0 else ""})
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    torch.manual_seed(0)
    task = ClassificationTask(["A", "B"], "efficientnet-b0")
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(folder / "classifier.ckpt")
    return folder


def data(folder, **settings) -> CXRDataModule:
    return CXRDataModule(str(folder / "metadata.csv"), size=32, batch_size=4, predict_split="test", **settings)


def test_table_has_patients_truths_and_probabilities(archive, tmp_path):
    table = predict_split(archive / "classifier.ckpt", data(archive, findings=["A", "B"]))
    assert list(table) == ["image_id", "patient_id", "split", "A_prob", "B_prob", "A_true", "B_true"]
    assert table["image_id"].tolist() == [f"i{n:02d}" for n in range(6)]
    assert table["patient_id"].tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert table["A_true"].tolist() == [1, 1, 0, 0, 1, 1]
    np.testing.assert_array_equal(table["B_true"], [np.nan, 1, 0, 1, 0, 1])
    again = read_predictions(write_predictions(table, tmp_path / "study" / "predictions.csv"))
    pd.testing.assert_frame_equal(again, table, check_dtype=False, rtol=1e-7)


def test_files_score_as_the_datamodule_sees_them(archive):
    table = predict_split(archive / "classifier.ckpt", data(archive, findings=["A", "B"]))
    scores = score_files(archive / "classifier.ckpt", [archive / f"{n}.png" for n in range(6)], size=32, batch_size=4)
    np.testing.assert_allclose(scores.to_numpy(), table[["A_prob", "B_prob"]].to_numpy(), atol=1e-3)  # float16 cache


def test_mismatches_give_one_sentence(archive, tmp_path):
    with pytest.raises(UserError, match="knows A, B but the data has B, A"):
        predict_split(archive / "classifier.ckpt", data(archive, findings=["B", "A"]))
    (tmp_path / "other.ckpt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not a classifier's"):
        score_files(tmp_path / "other.ckpt", [], size=32)
    pd.DataFrame({"image_id": ["a"]}).to_csv(tmp_path / "short.csv")
    with pytest.raises(UserError, match="lack patient_id, split"):
        read_predictions(tmp_path / "short.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(tmp_path / "absent.csv")
