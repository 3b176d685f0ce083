"""`cxrsynth verify`: whatever is damaged is found and named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cxrsynth.cli import main
from cxrsynth.data import Manifest
from cxrsynth.data.reading import read_stored
from cxrsynth.evaluation.verify import verify_folder
from cxrsynth.files import sha256_file
from cxrsynth.synthesis.outputs import write_outputs


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An archive of four images and a run of two images (one refused by the selection) and a refused row."""
    folder = tmp_path_factory.mktemp("made")
    generator = np.random.default_rng(0)
    (folder / "archive").mkdir()
    for name in ("healthy", "well", "ill", "other"):
        Image.fromarray(generator.integers(0, 256, (20, 16)).astype(np.uint8)).save(folder / "archive" / f"{name}.png")
    table = pd.DataFrame({"image_id": ["healthy", "well", "ill", "other"]})
    table["path"], table["patient_id"] = table["image_id"] + ".png", ["p1", "p2", "p3", "p4"]
    table["labels"] = ["No Finding", "No Finding", "Mass", "Mass"]
    table.to_csv(folder / "archive" / "metadata.csv", index=False)
    run = folder / "run"
    region = np.zeros((20, 16), np.uint8)
    region[3:9, 4:11] = 255
    records = []
    for name, source in (("syn0", "healthy"), ("syn1", "well")):
        paths = {kind: f"{kind}s/{name}.png" for kind in ("image", "region", "map")}
        for kind in paths:
            (run / f"{kind}s").mkdir(parents=True, exist_ok=True)
        stored = read_stored(folder / "archive" / f"{source}.png")
        stored.paste(generator.random((20, 16)), region > 0).save_png(run / paths["image"])
        for kind in ("region", "map"):
            Image.fromarray(region).save(run / paths[kind])
        hashes = {f"{kind}_sha256": sha256_file(run / path) for kind, path in paths.items()}
        about = {"source_id": source, "source_path": f"{source}.png", "exemplar_id": "ill", "finding": "Mass"}
        about["source_sha256"] = sha256_file(folder / "archive" / f"{source}.png")
        recipe = {"seed": 1, "condition": {"findings": ["Mass"]}, "solver": "midpoint", "steps": 2, "guidance": 2.0}
        recipe |= {"checkpoints": {"inpainting": "ab"}, "recipe": "cd", "version": "1", "accepted": name == "syn0"}
        records.append({"id": name, **paths, **hashes, **about, **recipe})
    (run / "provenance.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pd.DataFrame({"id": ["syn0", "syn1", "syn2"]}).to_csv(run / "plan.csv", index=False)
    pd.DataFrame({"id": ["syn1", "syn2"], "refused": ["gain: low", "region: small"]}).to_csv(
        run / "refused.csv", index=False
    )
    splits = table[["image_id", "patient_id"]].assign(split=["train", "train", "train", "test"])
    splits.to_csv(run / "splits.csv", index=False)
    (run / "config.yaml").write_text(yaml.safe_dump({"manifest": "../archive/metadata.csv"}))
    write_outputs(run, records, Manifest.load(folder / "archive" / "metadata.csv").table)
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def rewrite(copy: Path, **change) -> None:
    """Change the first record."""
    path = copy / "run" / "provenance.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), **change}), *rest]) + "\n")


def faults(copy: Path) -> dict[str, list[str]]:
    return {name: found for name, found in verify_folder(copy / "run").faults.items() if found}


def test_a_sound_folder_is_called_sound(made, capsys):
    result = verify_folder(made / "run")
    assert result.sound
    assert result.checked["files are as recorded"] == 6
    assert result.checked["rows of the plan are accounted for"] == 3
    main(["verify", str(made / "run")])
    assert "WRONG" not in capsys.readouterr().out


def test_the_command_names_the_damaged_file_and_exits_with_2(copy, capsys):
    (copy / "run" / "maps" / "syn1.png").write_bytes(b"half")
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(copy / "run")])
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert "maps/syn1.png is damaged" in output.out
    assert "not sound (1 faults" in output.err


@pytest.mark.parametrize("kind", ["image", "region", "map"])
def test_a_missing_file_is_named(copy, kind):
    (copy / "run" / f"{kind}s" / "syn0.png").unlink()
    assert faults(copy)["files are as recorded"] == [f"{kind}s/syn0.png is missing"]


def test_a_pixel_outside_the_region_is_found_even_where_its_hash_was_written_anew(copy):
    path = copy / "run" / "images" / "syn0.png"
    pixels = np.array(Image.open(path))
    pixels[15, 2] ^= 1
    Image.fromarray(pixels).save(path)
    rewrite(copy, image_sha256=sha256_file(path))
    (sentence,) = faults(copy)["outside the region nothing changed"]
    assert "images/syn0.png: 1 pixels" in sentence


def test_a_source_that_was_exchanged_is_named(copy):
    Image.fromarray(np.zeros((20, 16), np.uint8)).save(copy / "archive" / "healthy.png")
    assert "healthy.png" in faults(copy)["sources are as recorded"][0]


@pytest.mark.parametrize("path", ["../archive/healthy.png", "/etc/passwd"])
def test_a_path_that_leaves_the_folder_is_refused(copy, path):
    rewrite(copy, image=path)
    assert "leaves its folder" in faults(copy)["files are as recorded"][0]


def test_a_link_that_leaves_the_folder_is_refused(copy):
    path = copy / "run" / "images" / "syn0.png"
    path.unlink()
    path.symlink_to(copy / "archive" / "healthy.png")
    assert "leaves its folder" in faults(copy)["files are as recorded"][0]


def test_an_incomplete_record_is_named(copy):
    rewrite(copy, seed=None, checkpoints={})
    assert faults(copy)["provenance is complete"] == ["the record of syn0 lacks seed, checkpoints"]


def test_a_row_that_was_neither_made_nor_refused_is_named(copy):
    refused = pd.read_csv(copy / "run" / "refused.csv")
    refused[refused["id"] != "syn2"].to_csv(copy / "run" / "refused.csv", index=False)
    assert faults(copy) == {"rows of the plan are accounted for": ["syn2 was neither made nor refused"]}


def test_a_file_without_a_record_is_named(copy):
    shutil.copy(copy / "run" / "images" / "syn0.png", copy / "run" / "images" / "syn7.png")
    assert faults(copy) == {"files have a record": ["images/syn7.png has no record"]}


@pytest.mark.parametrize("column", ["source_id", "exemplar_id"])
@pytest.mark.parametrize(("image", "split"), [("other", "test"), ("nobody", "none")])
def test_an_image_of_another_split_is_a_leak(copy, column, image, split):
    rewrite(copy, **{column: image})
    (sentence,) = faults(copy)["sources and exemplars are training patients"]
    assert f"{column} '{image}' of syn0" in sentence
    assert f"split: {split}" in sentence


@pytest.mark.parametrize("name", ["synthetic.csv", "synthetic_all.csv", "coco.json", "provenance.parquet"])
def test_a_table_that_lists_other_images_is_named(copy, name):
    if name.endswith(".csv"):
        pd.read_csv(copy / "run" / name).iloc[:0].to_csv(copy / "run" / name, index=False)
    else:
        (copy / "run" / name).write_text("{")
    (sentence,) = faults(copy)["tables list the recorded images"]
    assert sentence.startswith(name)


def test_a_folder_without_a_synthesis_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["verify", str(tmp_path)])
    assert "holds no provenance.jsonl" in capsys.readouterr().err


def test_a_folder_that_does_not_name_its_sources_asks_for_them(copy, capsys):
    (copy / "run" / "config.yaml").unlink()
    with pytest.raises(SystemExit):
        main(["verify", str(copy / "run")])
    assert "--sources" in capsys.readouterr().err
    main(["verify", str(copy / "run"), "--sources", str(copy / "archive")])
