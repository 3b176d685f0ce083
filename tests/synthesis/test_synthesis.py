"""The engine at tiny size: untrained networks paint noise, which is enough to test what must hold for every image."""

import json
import re
import shutil
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from cxrsynth.anatomy import chest_field, segment
from cxrsynth.autoencoder import Autoencoder, save_autoencoder
from cxrsynth.data.geometry import from_square, to_square
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_image, read_stored
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file
from cxrsynth.inpainting.task import InpaintingTask, load_inpainter
from cxrsynth.study.images import paint_record
from cxrsynth.synthesis.datamodule import SynthesisDataModule
from cxrsynth.synthesis.measures import seam
from cxrsynth.synthesis.plan import write_plan
from cxrsynth.synthesis.task import SynthesisTask
from cxrsynth.synthesis.writer import SynthesisWriter


def synthesise(archive: Path, out: Path, batch_size: int = 1, workers: int = 0, **settings) -> dict[str, str]:
    """Run the engine; the hash of every file it leaves."""
    settings = {"steps": 2, "min_ncc": -1.0, "smallest": 0.0, "largest": 1.0, **settings}
    task = SynthesisTask(str(archive / "attention.ckpt"), str(archive / "inpainting.ckpt"), **settings)
    data = SynthesisDataModule(
        str(archive / "plan.csv"), str(archive / "phantom/metadata.csv"), str(out), batch_size, workers
    )
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[SynthesisWriter(str(out))],
    )
    trainer.predict(task, datamodule=data, return_predictions=False)
    return {str(p.relative_to(out)): sha256_file(p) for p in sorted(out.rglob("*")) if p.is_file()}


def without_inpainter(archive: Path, folder: Path) -> Path:
    """The archive again, for another inpainter."""
    folder.mkdir()
    for name in ("phantom", "plan.csv", "attention.ckpt"):
        (folder / name).symlink_to(archive / name)
    return folder


@pytest.fixture(scope="module")
def made(archive, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    out = tmp_path_factory.mktemp("made")
    return out, synthesise(archive, out)


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "provenance.jsonl").read_text().splitlines()]


def test_every_row_of_the_plan_is_made(archive, made):
    out, _ = made
    assert [r["id"] for r in records(out)] == sorted(pd.read_csv(archive / "plan.csv")["id"])


def test_stored_values_outside_the_region_are_the_sources(archive, made):
    out, _ = made
    for record in records(out):
        source = read_stored(archive / "phantom" / record["source_path"]).stored
        image = np.array(Image.open(out / record["image"]))
        region = np.array(Image.open(out / record["region"]))
        assert image.shape == source.shape == region.shape
        assert set(np.unique(region)) == {0, 255}
        assert (image[region == 0] == source[region == 0]).all()
        assert (image[region == 255] != source[region == 255]).mean() > 0.5


def test_an_inpainter_of_latents_works_unchanged(archive, save, tmp_path):
    folder = without_inpainter(archive, tmp_path / "latent")
    codec = Autoencoder((8, 8), latent_channels=2, norm_groups=4)
    codec.scale.fill_(2.0)
    latent = str(save_autoencoder(codec, tmp_path / "autoencoder.safetensors"))
    findings = load_inpainter(archive / "inpainting.ckpt").hparams["findings"]
    task = InpaintingTask(findings, size=32, channels=[16, 16], attention=[False, True], latent=latent)
    save(task, folder / "inpainting.ckpt")
    made = synthesise(folder, tmp_path / "one")
    test_stored_values_outside_the_region_are_the_sources(folder, (tmp_path / "one", made))
    assert synthesise(folder, tmp_path / "two", batch_size=3) == made


def test_an_inpainter_is_told_who_the_source_shows_as_far_as_it_was_trained_to_listen(archive, save, tmp_path):
    folder = without_inpainter(archive, tmp_path / "told")
    findings = load_inpainter(archive / "inpainting.ckpt").hparams["findings"]
    listens = ["view", "sex", "age"]
    save(
        InpaintingTask(findings, size=32, channels=[16, 16], attention=[False, True], fields=listens),
        folder / "inpainting.ckpt",
    )
    synthesise(folder, tmp_path / "out")
    table = Manifest.load(archive / "phantom/metadata.csv").table.set_index("image_id")
    for record in records(tmp_path / "out"):
        person = table.loc[record["source_id"], listens].to_dict()
        assert record["condition"] == {"findings": record["findings"].split("|"), **person}


def test_findings_are_also_asked_for_in_words_and_what_is_unknown_is_left_out(archive):
    task = SynthesisTask(str(archive / "attention.ckpt"), "phantom")
    task.inpainter = load_inpainter("phantom")
    row = {"findings": "Effusion|Cardiomegaly", "seed": 2**62}
    wishes = task._wishes(row, {"view": "LATERAL", "sex": "", "age": float("nan")})
    assert wishes.keys() == {"findings", "text"}
    assert wishes["text"].count(".") == 2
    assert not re.search(r"\b(no|without|absent|negative)\b", wishes["text"], re.IGNORECASE)
    assert task._wishes(row, {"view": "AP", "sex": "F", "age": 61.0}) == {
        **wishes,
        "view": "AP",
        "sex": "F",
        "age": 61.0,
    }


def test_guidance_can_move_away_from_a_healthy_image(archive, save, tmp_path):
    folder = without_inpainter(archive, tmp_path / "heard")
    findings = load_inpainter(archive / "inpainting.ckpt").hparams["findings"]
    task = InpaintingTask(findings, size=32, channels=[16, 16], attention=[False, True])
    for weight in task.parameters():  # an untrained network hears no condition
        torch.nn.init.normal_(weight, std=0.05)
    save(task, folder / "inpainting.ckpt")
    files = {name: synthesise(folder, tmp_path / name, baseline=name) for name in ("unknown", "none")}
    names = [name for name in files["none"] if name.endswith(".png")]
    same = {name: files["none"][name] == files["unknown"][name] for name in names}
    assert all(equal for name, equal in same.items() if not name.startswith("images"))
    assert not all(same.values())
    assert {record["baseline"] for record in records(tmp_path / "none")} == {"none"}


def test_a_change_fades_in_inside_the_region(archive, made, tmp_path):
    synthesise(archive, tmp_path, feather=0.0)
    steps = {}
    for out in (made[0], tmp_path):
        for record in records(out):
            region = read_image(out / record["region"]) > 0.5
            source, image = read_image(archive / "phantom" / record["source_path"]), read_image(out / record["image"])
            steps.setdefault(record["id"], []).append(seam(image, source, region))
    assert np.mean([soft < hard for soft, hard in steps.values()]) > 0.9
    with pytest.raises(UserError, match="feather is -1"):
        SynthesisTask("a.ckpt", "b.ckpt", feather=-1.0)


def test_records_name_and_hash_what_they_describe(archive, made):
    out, _ = made
    for record in records(out):
        for name in ("image", "region", "map"):
            assert sha256_file(out / record[name]) == record[f"{name}_sha256"]
        assert sha256_file(archive / "phantom" / record["source_path"]) == record["source_sha256"]
        assert record["checkpoints"]["inpainting"] == sha256_file(archive / "inpainting.ckpt")
        assert {"exemplar_id", "finding", "seed", "solver", "steps", "guidance", "registration"} <= set(record)


@pytest.mark.parametrize(("batch_size", "workers"), [(8, 0), (2, 2)])
def test_loader_batches_and_workers_change_no_byte(archive, made, tmp_path, batch_size, workers):
    assert synthesise(archive, tmp_path, batch_size, workers) == made[1]


def test_a_run_that_was_cut_off_is_finished_to_the_same_files(archive, made, tmp_path):
    out, files = made
    shutil.copytree(out, tmp_path / "run")
    run = tmp_path / "run"
    ids = [r["id"] for r in records(out)]
    (run / "provenance" / f"{ids[1]}.json").unlink()
    (run / "images" / f"{ids[4]}.png").write_bytes(b"half")
    (run / "provenance.jsonl").unlink()
    untouched = (run / "images" / f"{ids[6]}.png").stat().st_mtime_ns
    assert synthesise(archive, run) == files
    assert (run / "images" / f"{ids[6]}.png").stat().st_mtime_ns == untouched


def test_other_settings_make_the_images_again(archive, made, tmp_path):
    shutil.copytree(made[0], tmp_path / "run")
    assert synthesise(archive, tmp_path / "run", guidance=1.0) != made[1]


def test_a_refused_row_says_why_and_leaves_no_image(archive, tmp_path):
    synthesise(archive, tmp_path, min_ncc=0.9999)
    assert records(tmp_path) == []
    refused = pd.read_csv(tmp_path / "refused.csv")
    assert len(refused) == 7
    assert refused["refused"].str.contains("correlation").all()
    assert not list(tmp_path.rglob("*.png"))


def test_a_source_that_cannot_be_read_is_refused_and_its_group_is_made(archive, made, tmp_path):
    shutil.copytree(archive, tmp_path / "archive")
    first = records(made[0])[0]
    (tmp_path / "archive" / "phantom" / first["source_path"]).write_bytes(b"not an image")
    synthesise(tmp_path / "archive", tmp_path / "out")
    refused = pd.read_csv(tmp_path / "out" / "refused.csv")
    assert first["id"] in set(refused["id"])
    assert refused["refused"].str.startswith("unreadable").all()
    kept = {r["id"]: r["image_sha256"] for r in records(tmp_path / "out")}
    assert kept.items() <= {r["id"]: r["image_sha256"] for r in records(made[0])}.items()


def test_networks_of_different_findings_are_refused(archive, save, tmp_path):
    other = save(InpaintingTask(["Mass"], size=32, channels=[16, 16], attention=[False, True]), tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="same findings"):
        SynthesisTask(str(archive / "attention.ckpt"), other).load()


@pytest.mark.parametrize("name", ["attention", "inpainting"])
def test_a_checkpoint_that_was_cut_off_is_refused_by_name(archive, tmp_path, name):
    paths = {n: str(archive / f"{n}.ckpt") for n in ("attention", "inpainting")}
    (tmp_path / "half.ckpt").write_bytes(Path(paths[name]).read_bytes()[:2000])
    with pytest.raises(UserError, match=r"half\.ckpt"):
        SynthesisTask(**{**paths, name: str(tmp_path / "half.ckpt")}).load()


def test_a_plan_of_another_archive_is_refused(archive, tmp_path):
    shutil.copytree(archive, tmp_path / "archive")
    plan = pd.read_csv(archive / "plan.csv").assign(source_id="nobody")
    write_plan(tmp_path / "archive" / "plan.csv", plan)
    with pytest.raises(UserError, match="'nobody'"):
        synthesise(tmp_path / "archive", tmp_path / "out")


def painted_outside(archive: Path, out: Path) -> list[float]:
    """For each image, the share of its region that lies outside the source's chest field."""
    shares = []
    for record in records(out):
        image = read_image(archive / "phantom" / record["source_path"])
        square = to_square(image, 64)[None]  # the size of the attention task, which finds the lungs
        field = from_square(chest_field(segment(square)).float(), image.shape[-2:])[0, 0] > 0.5
        region = torch.from_numpy(np.array(Image.open(out / record["region"])) > 0)
        shares.append(float((region & ~field).sum() / region.sum()))
    return shares


def test_regions_lie_in_the_chest_when_they_are_limited_to_it(archive, made, tmp_path):
    synthesise(archive, tmp_path, limit="chest", mass=0.9)
    assert records(tmp_path)
    assert max(painted_outside(archive, tmp_path)) == 0
    synthesise(archive, tmp_path / "anywhere", mass=0.9)
    assert max(painted_outside(archive, tmp_path / "anywhere")) > 0.1
    assert "segmenter" in records(tmp_path)[0]["checkpoints"]


def test_regions_on_real_films_lie_in_the_chest(archive, shared, tmp_path):
    """The pipeline for real archives limits regions to the chest by default."""
    config = yaml.safe_load((Path(__file__).parents[2] / "lightning_configs" / "real.yaml").read_text())
    manifest = Manifest.load(shared / "cxr" / "metadata.csv").select(views=["PA"], sites=["NIH"])
    table = manifest.table
    sources = table.image_id[manifest.healthy][:3].tolist()
    exemplars = table.image_id[table.labels.str.contains("Effusion")][:3].tolist()
    rows = zip(sources, exemplars, range(3), strict=True)
    plan = pd.DataFrame(
        [(f"syn{k}", 0, source, exemplar, "Effusion", k) for source, exemplar, k in rows],
        columns=["id", "group", "source_id", "exemplar_id", "finding", "seed"],
    )
    write_plan(tmp_path / "plan.csv", plan)
    limit = config["limit"]
    settings = {"steps": 1, "min_ncc": -1.0, "smallest": 0.0, "largest": 1.0, "limit": limit}
    task = SynthesisTask(str(archive / "attention.ckpt"), str(archive / "inpainting.ckpt"), **settings)
    data = SynthesisDataModule(str(tmp_path / "plan.csv"), str(shared / "cxr" / "metadata.csv"), str(tmp_path))
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[SynthesisWriter(str(tmp_path))],
    )
    trainer.predict(task, datamodule=data, return_predictions=False)
    assert len(records(tmp_path)) == 3
    for record in records(tmp_path):
        chest = chest_field(segment(read_image(manifest.path(record["source_id"]))[None]))[0, 0]
        region = torch.from_numpy(np.array(Image.open(tmp_path / record["region"])) > 0)
        assert region.any()
        # found again at the film's own size: outlines differ by the pixels of the smaller square
        assert (region & ~chest).sum() / region.sum() < 0.05


def test_a_source_without_lungs_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrsynth.anatomy.segmenter.segment", lambda image: torch.zeros_like(image, dtype=torch.bool))
    synthesise(archive, tmp_path, limit="lungs")
    assert records(tmp_path) == []
    assert pd.read_csv(tmp_path / "refused.csv")["refused"].str.contains("no lungs").all()


def test_an_unknown_limit_is_refused(archive):
    with pytest.raises(UserError, match="limit is 'heart'"):
        SynthesisTask("attention.ckpt", "inpainting.ckpt", limit="heart")


def test_a_record_says_all_that_is_needed_to_paint_its_image_again(archive, tmp_path):
    sampling = {"guidance": {"findings": 3.0, "sex": 0.5}, "baseline": "none", "feather": 1.0, "warp": 1.0}
    synthesise(archive, tmp_path, solver="heun", steps=3, **sampling)
    inpainter = load_inpainter(archive / "inpainting.ckpt")
    for record in records(tmp_path):
        source = read_stored(archive / "phantom" / record["source_path"])
        region = read_stored(tmp_path / record["region"]).stored > 0
        again = paint_record(inpainter, record, source, region).stored.astype(int)
        assert abs(again - read_stored(tmp_path / record["image"]).stored).max() <= 1  # of 255: batches round otherwise
        assert (again[region] != source.stored[region]).any()
