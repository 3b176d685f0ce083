"""A table of requests through `cxrsynth predict`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrsynth.cli import main
from cxrsynth.data import read_stored
from cxrsynth.editing import edit
from cxrsynth.editing.datamodule import read_requests
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file

CONFIG = Path(__file__).resolve().parents[2] / "lightning_configs" / "inpaint.yaml"
TABLE = """id,image,finding,box,mask,map_from,full,remove,seed
a,chest.png,Effusion,,,,,,
b,chest.png,Nodule,"10,20,40,50",,,,,3
c,chest.dcm,Nodule,,mask.png,,,,
d,chest.png,Nodule,,,chest.png,,,
e,chest.png,,,,,true,true,
f,chest.png,Efusion,,,,,,
g,none.png,Effusion,,,,,,
"""


@pytest.fixture
def requests(tmp_path, write_film, write_dicom, film) -> Path:
    write_film(tmp_path / "chest.png", 120, 90, 8)
    write_dicom(tmp_path / "chest.dcm", (film(120, 90) * 4095).astype(np.uint16))
    mask = np.zeros((120, 90), np.uint8)
    mask[10:40, 20:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "requests.csv").write_text(TABLE)
    return tmp_path / "requests.csv"


def predict(requests: Path, checkpoints: Path) -> Path:
    out = requests.parent / "out"
    networks = ["--model.checkpoint", str(checkpoints / "inpainting.ckpt"), "--model.steps", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    main(
        [
            "predict",
            "--config",
            str(CONFIG),
            *networks,
            "--model.out",
            str(out),
            "--data.requests",
            str(requests),
            *quiet,
        ]
    )
    return out


def test_each_row_is_made_or_refused_and_nothing_is_made_twice(requests, checkpoints, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    out = predict(requests, checkpoints)
    assert not list(Path.cwd().iterdir())  # nothing is left where the user happens to be
    records = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    assert sorted(records) == list("abcdefg")
    assert {name for name, record in records.items() if "refused" in record} == {"f", "g"}
    assert "Efusion" in records["f"]["refused"]
    assert not list(out.glob("[fg].*p*"))
    for name in "abcde":
        record = records[name]
        source, made = read_stored(requests.parent / record["source"]), read_stored(out / record["image"])
        region = np.array(Image.open(out / f"{name}.region.png")) > 0
        np.testing.assert_array_equal(made.stored[~region], source.stored[~region])
        assert (made.stored[region] != source.stored[region]).mean() > 0.5
        assert record["checkpoints"]["inpainting"] == sha256_file(checkpoints / "inpainting.ckpt")
    assert (out / "c.dcm").is_file()
    assert records["b"]["seed"] == 3
    # one more row of the same table, and one file damaged: only these two are made
    stamps = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "b.png").write_bytes(b"half")
    requests.write_text(TABLE + "h,chest.png,Effusion,,,,,,1\n")
    predict(requests, checkpoints)
    changed = {path.name for path in out.iterdir() if path.stat().st_mtime_ns != stamps.get(path.name)}
    assert {name[0] for name in changed} <= set("bhfg")
    assert sha256_file(out / "b.png") == records["b"]["image_sha256"]


def test_a_row_equals_the_function_and_the_command(requests, checkpoints):
    out = predict(requests, checkpoints)
    alone = edit(
        requests.parent / "chest.png",
        checkpoint=checkpoints / "inpainting.ckpt",
        finding="Nodule",
        box=(10, 20, 40, 50),
        seed=3,
        steps=1,
    )
    np.testing.assert_array_equal(np.array(Image.open(out / "b.png")), alone.pixels)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("id\na\n", "lacks image"),
        ("id,image,colour\na,b.png,red\n", "colour"),
        ("id,image\na,b.png\na,c.png\n", "'a' is there twice"),
        ("id,image\n../a,b.png\n", "'../a'"),
        ("id,image,seed\na,b.png,one\n", "id 'a'"),
        ("id,image,full\na,b.png,perhaps\n", "perhaps"),
        ("", "cannot be read"),
    ],
)
def test_bad_tables_are_refused(tmp_path, table, words):
    (tmp_path / "requests.csv").write_text(table)
    with pytest.raises(UserError, match=words):
        read_requests(tmp_path / "requests.csv")
