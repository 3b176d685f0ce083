"""The study with the real network, for a few steps: equal steps in every arm, and nothing is trained twice."""

import json

import numpy as np
import pandas as pd

from cxrsynth.study.study import study


def test_every_arm_takes_the_same_steps(plain, tmp_path, capsys):
    generator = np.random.default_rng(0)
    made = [(plain.picture(generator, [plain.places[n % 2]]), plain.places[n % 2]) for n in range(12)]
    images = plain.write_images(tmp_path / "made", made)
    trainer = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None, "accelerator": "cpu"}
    settings = {
        "arms": ["real", "duplicates", "oversampling", "synthetic", "synthetic_only", "pretrain"],
        "classification": {
            "model": {"network": "compact", "lr": 0.003},
            "data": {"size": plain.side, "batch_size": 16},
            "trainer": trainer,
        },
        "manifest": str(plain.archive),
        "images": [str(images)],
        "seeds": 1,
        "draws": 40,
        "threads": 1,
    }
    page = study(str(tmp_path / "out"), **settings)
    figures = json.loads(page.with_suffix(".json").read_text())
    assert [arm["steps"] for arm in figures["arms"].values()] == [[4]] * 6
    folder = tmp_path / "out" / "arms" / "all"
    tables = [pd.read_csv(folder / arm / "seed0" / "predictions_test.csv") for arm in figures["arms"]]
    assert all(table["image_id"].equals(tables[0]["image_id"]) for table in tables)
    assert set(tables[0]["split"]) == {"test"}
    assert not np.allclose(tables[0]["Nodule_prob"], tables[3]["Nodule_prob"])
    assert figures["arms"]["real"]["val_loss"] is not None
    study(str(tmp_path / "out"), **settings)
    assert capsys.readouterr().out.count("done before") == 6
