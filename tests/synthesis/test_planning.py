import numpy as np
import pandas as pd
import pytest
import yaml

from cxrsynth.cli import main
from cxrsynth.data.manifest import Manifest
from cxrsynth.encoder import load_encoder
from cxrsynth.synthesis.likeness import measure_likeness, principal
from cxrsynth.synthesis.plan import check_training, read_plan


def options(archive, out) -> list[str]:
    given = {"manifest": archive / "phantom/metadata.csv", "splits": archive / "splits.csv", "out": out}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def test_plan_writes_a_table_and_says_what_it_costs(archive, tmp_path, capsys):
    checkpoints = [f"--{name}={archive / name}.ckpt" for name in ("attention", "inpainting")]
    asked = ["--findings=[Effusion,Nodule]", "--count=11", "--group-size=4", "--co-occurring", "--steps=3"]
    main(["plan", *options(archive, tmp_path / "plan.parquet"), *checkpoints, *asked])
    said = capsys.readouterr().out
    plan = read_plan(tmp_path / "plan.parquet")
    assert len(plan) == 11
    assert "11 images to make, in 3 groups" in said
    assert "6 forwards of" in said  # three steps of two
    assert "MiB on disk" in said
    check_training(plan, pd.read_csv(archive / "splits.csv"))


def test_plan_takes_what_a_run_has(archive, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    config = {"manifest": str(archive / "phantom/metadata.csv"), "findings": ["Nodule"], "views": None, "sites": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "splits.csv").write_bytes((archive / "splits.csv").read_bytes())
    main(["plan", "--run", str(run), "--out", str(tmp_path / "plan.csv"), "--rule=until", "--targets={Nodule: 20}"])
    assert set(read_plan(tmp_path / "plan.csv")["finding"]) == {"Nodule"}
    with pytest.raises(SystemExit):  # it is there already
        main(["plan", "--run", str(run), "--out", str(tmp_path / "plan.csv"), "--count", "3"])
    assert "overwrite=true" in capsys.readouterr().err


def test_matching_by_the_look_of_the_images(archive, tmp_path):
    weights = "--weights={body: 1, similarity: 1, quality: 1}"
    encoder = f"--encoder={archive / 'attention.ckpt'}"
    main(["plan", *options(archive, tmp_path / "plan.csv"), weights, encoder, "--findings=[Nodule]", "--count=6"])
    manifest = Manifest.load(archive / "phantom/metadata.csv")
    likeness = measure_likeness(manifest, load_encoder(archive / "attention.ckpt"))
    assert likeness.ids == sorted(manifest.table["image_id"])
    assert (likeness.body <= 0).all()  # logarithms of shares of the film
    assert np.abs((likeness.thumbnails.astype(float) ** 2).sum(1) - 1).max() < 0.01
    assert len(read_plan(tmp_path / "plan.csv")) == 6


def test_principal_components_keep_distances_and_set_their_scale():
    features = np.random.default_rng(0).normal(size=(400, 3)) @ np.random.default_rng(1).normal(size=(3, 20)) + 5
    scores = principal(features, 3)
    before, after = (np.linalg.norm(x[:50] - x[50:100], axis=1) for x in (features, scores))
    ratio = after / before
    assert ratio.std() / ratio.mean() < 0.01
    pairs = np.random.default_rng(2).permutation(400).reshape(2, 200)
    assert ((scores[pairs[0]] - scores[pairs[1]]) ** 2).sum(1).mean() == pytest.approx(1, abs=0.2)
