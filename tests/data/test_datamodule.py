import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from cxrsynth.data import CXRDataModule, Manifest
from cxrsynth.data.augment import build_augment
from cxrsynth.data.geometry import to_square
from cxrsynth.data.reading import read_image
from cxrsynth.data.sampling import HEALTHY, BalancedSampler, NaturalSampler
from cxrsynth.errors import UserError


def ids(loader) -> list[str]:
    return [image_id for batch in loader for image_id in batch["image_id"]]


def test_batches_are_as_the_design_says(patients):
    data = CXRDataModule(str(patients), size=16, batch_size=8)
    data.setup("fit")
    assert data.findings == ["A", "B"]
    batch = next(iter(data.val_dataloader()))
    manifest = data.manifest("val")
    assert set(batch) == {"image", "target", "image_id", "view", "sex", "age", "text"}
    assert batch["image"].shape == (len(batch["image_id"]), 1, 16, 16)
    assert batch["image"].dtype == batch["target"].dtype == torch.float32
    first = to_square(read_image(manifest.path(batch["image_id"][0])), 16)
    torch.testing.assert_close(batch["image"][0], first, atol=1e-3, rtol=0)
    torch.testing.assert_close(batch["target"], manifest.targets(["A", "B"])[: len(batch["target"])])
    rows = manifest.table.iloc[: len(batch["image_id"])]
    assert batch["view"] == rows.view.tolist()
    assert batch["sex"] == ["F"] * len(rows)
    assert batch["age"].tolist() == rows.age.tolist()
    assert batch["text"] == [""] * len(rows)
    data.setup("predict")
    assert sorted(ids(data.predict_dataloader())) == sorted(Manifest.load(patients).table.image_id)


def test_every_patient_is_in_one_split(patients):
    data = CXRDataModule(str(patients), size=16, views=["PA"])
    data.setup()
    owners = [set(data.table(name).patient_id) for name in ("train", "val", "test")]
    assert all(owners)
    assert not (owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2])
    assert len(data.split_table) == 60
    assert len(data.table("all")) == 30
    assert ids(data.test_dataloader()) == data.table("test").image_id.tolist()


def test_order_is_decided_by_seed_and_epoch_alone(patients):
    def orders(workers: int) -> list[list[str]]:
        data = CXRDataModule(str(patients), size=16, num_workers=workers, seed=5)
        data.setup("fit")
        loader = data.train_dataloader()
        result = []
        for epoch in (0, 1, 0):
            loader.sampler.set_epoch(epoch)
            result.append(ids(loader))
        return result

    alone = orders(0)
    assert alone[0] == alone[2] != alone[1]
    assert alone == orders(1)


def test_the_cache_changes_nothing_but_the_last_bits(patients):
    cached = CXRDataModule(str(patients), size=16, augment=0.0)
    direct = CXRDataModule(str(patients), size=16, cache_gib=0.0)
    for data in (cached, direct):
        data.setup("fit")
    for a, b in zip(cached.train_dataloader(), direct.train_dataloader(), strict=True):
        assert a["image_id"] == b["image_id"]
        torch.testing.assert_close(a["image"], b["image"], atol=5e-4, rtol=0)


@pytest.mark.parametrize("cache_gib", [2.0, 0.0])
def test_unreadable_images_are_set_aside(patients, cache_gib):
    good = CXRDataModule(str(patients), size=16)
    good.setup("fit")
    bad = good.table("train").image_id[0]
    (patients.parent / "images" / f"{bad}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    data = CXRDataModule(str(patients), size=16, cache_gib=cache_gib, batch_size=4)
    with pytest.warns(UserWarning, match="set aside as unreadable"):
        seen = ids(data.train_dataloader())
    assert bad not in seen
    assert list(data.unreadable) == [bad]
    assert (bad in set(data.table("train").image_id)) == (cache_gib == 0)


def test_balanced_sampling_draws_findings_evenly():
    has = np.zeros((1000, 3), bool)
    has[:900, 0] = has[900:905, 1] = True
    healthy = np.zeros(1000, bool)
    healthy[950:] = True
    draws = list(BalancedSampler(has, healthy, healthy_share=0.4, seed=1))
    assert len(draws) == 1000
    findings = np.array([finding for _, finding in draws])
    assert (findings == HEALTHY).mean() == pytest.approx(0.4, abs=0.06)
    assert (findings == 0).mean() == pytest.approx(0.3, abs=0.06)
    assert (findings == 1).mean() == pytest.approx(0.3, abs=0.06)
    assert all(healthy[row] if finding == HEALTHY else has[row, finding] for row, finding in draws)
    assert all(f == HEALTHY for _, f in BalancedSampler(np.zeros((4, 1), bool), np.ones(4, bool), 0.0))


def test_natural_sampling_sees_each_image_once():
    has = np.array([[1, 1], [0, 1], [0, 0]], bool)
    for epoch in range(5):
        sampler = NaturalSampler(has, seed=0)
        sampler.set_epoch(epoch)
        draws = list(sampler)
        assert sorted(row for row, _ in draws) == [0, 1, 2]
        assert all(finding == HEALTHY if row == 2 else has[row, finding] for row, finding in draws)


def write_maps(path, manifest: Manifest, finding: str) -> None:
    chosen = manifest.table.image_id[manifest.targets([finding])[:, 0].numpy() == 1].tolist()
    maps = np.stack([np.full((4, 4), (1 + n) / (1 + len(chosen))) for n in range(len(chosen))]).astype(np.float16)
    np.savez(path, image_id=np.array(chosen), finding=np.array([finding] * len(chosen)), map=maps)


def test_maps_come_with_the_finding_that_was_drawn(patients, tmp_path):
    write_maps(tmp_path / "maps.npz", Manifest.load(patients), "B")
    data = CXRDataModule(
        str(patients), size=16, maps=str(tmp_path / "maps.npz"), sampling="balanced", healthy_share=0.3, batch_size=10
    )
    data.setup("fit")
    with pytest.warns(UserWarning, match="no training image has A"):
        loader = data.train_dataloader()
    with np.load(tmp_path / "maps.npz") as file:
        value = dict(zip(file["image_id"].tolist(), file["map"][:, 0, 0].astype(float), strict=True))
    seen = set()
    for batch in loader:
        assert batch["map"].shape == batch["image"].shape
        assert batch["finding"].dtype == torch.int64
        for image_id, finding, map in zip(batch["image_id"], batch["finding"].tolist(), batch["map"], strict=True):
            seen.add(finding)
            torch.testing.assert_close(map, torch.full_like(map, 0 if finding == HEALTHY else value[image_id]))
    assert seen == {HEALTHY, 1}


def test_synthetic_images_enter_train_only_and_never_leak(patients, archive):
    data = CXRDataModule(str(patients), size=16)
    data.setup("fit")
    train, test = data.table("train").iloc[0], data.table("test").iloc[0]
    rows = [
        {"image_id": f"s{n}", "labels": "A", "patient_id": train.patient_id, "source_id": train.image_id}
        for n in range(3)
    ]
    extra = archive(rows, "synthetic")
    more = CXRDataModule(str(patients), size=16, extra_manifest=str(extra))
    more.setup()
    assert {"s0", "s1", "s2"} <= set(more.table("train").image_id)
    assert not {"s0", "s1", "s2"} & (set(more.table("val").image_id) | set(more.table("test").image_id))
    for column, value in (
        ("patient_id", test.patient_id),
        ("source_id", test.image_id),
        ("exemplar_id", test.image_id),
    ):
        extra = archive([rows[0] | {column: value}], f"leak_{column}")
        leaking = CXRDataModule(str(patients), size=16, extra_manifest=str(extra))
        with pytest.raises(UserError, match=rf"{column} '{value}' belongs to val or test"):
            leaking.setup("fit")


def test_bad_arguments_give_one_sentence(patients, tmp_path):
    with pytest.raises(UserError, match="sampling is 'fair'"):
        CXRDataModule(str(patients), sampling="fair")
    with pytest.raises(UserError, match="unknown finding 'C'"):
        CXRDataModule(str(patients), findings=["C"]).setup("fit")
    with pytest.raises(UserError, match="augment is 9"):
        CXRDataModule(str(patients), augment=9)
    (tmp_path / "splits.csv").write_text("image_id,patient_id,split\ni00,p00,train\n")
    with pytest.raises(UserError, match="has no row for image"):
        CXRDataModule(str(patients), splits=str(tmp_path / "splits.csv")).setup("fit")
    np.savez(tmp_path / "maps.npz", image_id=np.array(["a"]))
    with pytest.raises(UserError, match="it needs the arrays"):
        CXRDataModule(str(patients), size=16, maps=str(tmp_path / "maps.npz")).setup("fit")


class Mean(L.LightningModule):
    """Learns one number; notes what it was fed."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[list[str]] = [[], []]

    def training_step(self, batch, batch_idx):
        self.seen[self.current_epoch] += batch["image_id"]
        return self.layer(batch["image"].mean((1, 2, 3))[:, None]).square().mean()

    def predict_step(self, batch, batch_idx):
        return batch["image_id"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_in_a_trainer_the_order_changes_with_the_epoch(patients, tmp_path):
    data, model = CXRDataModule(str(patients), size=16, augment=1.0, batch_size=7), Mean()
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, datamodule=data)
    assert model.seen[0] != model.seen[1]
    assert len(model.seen[0]) == len(set(model.seen[0])) > 30
    predicted = trainer.predict(model, datamodule=data)
    assert [image_id for batch in predicted for image_id in batch] == data.table("all").image_id.tolist()


def test_augmentation_moves_image_and_map_together():
    ramp = torch.linspace(0.3, 0.7, 64)
    image = (ramp[:, None] + ramp[None, :])[None, None].repeat(8, 1, 1, 1) / 2
    spot = torch.zeros(8, 1, 64, 64)
    spot[:, :, 20:28, 30:38] = 1
    marked = image * 0.5 + spot * 0.5
    augmented, moved = build_augment(1.0)(marked, spot)
    assert augmented.shape == marked.shape
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert not torch.equal(moved, spot)
    grid = torch.arange(64.0)
    for before, picture, map in zip(marked, augmented, moved, strict=True):
        bright = (picture > picture.flatten().quantile(0.99)).float()
        for weights in (bright[0], map[0]):
            assert weights.sum() > 20
        centres = [(grid @ w.sum(1) / w.sum(), grid @ w.sum(0) / w.sum()) for w in (bright[0], map[0])]
        torch.testing.assert_close(torch.stack(centres[0]), torch.stack(centres[1]), atol=1.5, rtol=0)
        assert before.shape == picture.shape


def test_augmentation_never_flips_and_zero_changes_nothing():
    left = torch.zeros(64, 1, 32, 32)
    left[..., :12] = 1
    (out,) = build_augment(1.0)(left)
    assert (out[..., :16].mean((1, 2, 3)) > out[..., 16:].mean((1, 2, 3))).all()
    (same,) = build_augment(0.0)(left)
    assert torch.equal(same, left)


def test_masks_and_boxes_of_findings_stand_in_for_maps(archive):
    metadata = archive([{"image_id": name, "labels": "B"} for name in "abc"])
    mask = np.zeros((40, 32), np.uint8)
    mask[10:30, 4:28] = 255
    Image.fromarray(mask).save(metadata.parent / "a.png")
    (metadata.parent / "masks.csv").write_text("image_id,path,structure\na,a.png,b\n")
    (metadata.parent / "boxes.csv").write_text("image_id,label,x_min,y_min,x_max,y_max\nb,B,4,10,28,30\n")
    data = CXRDataModule(str(metadata), size=20, fractions=[1.0, 0.0, 0.0], maps="masks", batch_size=3)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert batch["finding"].tolist() == [0, 0, -1]
    expected = (to_square(torch.from_numpy(mask)[None].float() / 255, 20) > 0.5).float()
    assert torch.equal(batch["map"][0], expected)
    assert torch.equal(batch["map"][1], expected)
    assert not batch["map"][2].any()


def test_batches_carry_masks_of_the_lungs(archive):
    metadata = archive([{"image_id": name, "labels": "No Finding"} for name in "abc"])
    mask = np.zeros((40, 32), np.uint8)
    mask[10:30, 4:28] = 255
    Image.fromarray(mask).save(metadata.parent / "a_lungs.png")
    (metadata.parent / "masks.csv").write_text("image_id,path,structure\na,a_lungs.png,lungs\nb,a_lungs.png,heart\n")
    data = CXRDataModule(str(metadata), size=20, fractions=[1.0, 0.0, 0.0], lungs=True, batch_size=3)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    lungs = dict(zip(batch["image_id"], batch["lungs"], strict=True))
    expected = to_square(torch.from_numpy(mask)[None].float() / 255, 20) > 0.5
    assert torch.equal(lungs["a"], expected.float())
    assert not lungs["b"].any()
    assert not lungs["c"].any()


def test_labels_of_views_and_sites_are_checked(patients):
    with pytest.raises(UserError, match="no image has site 'there'; choose from here"):
        CXRDataModule(str(patients), sites=["there"]).setup("fit")
    assert pd.read_csv(patients).site.unique().tolist() == ["here"]


def test_copies_decide_how_often_an_epoch_shows_an_image(patients, tmp_path):
    plain = CXRDataModule(str(patients), size=16)
    first, second, *rest = plain.table("train").image_id
    (tmp_path / "copies.csv").write_text(f"image_id,copies\n{first},3\n{second},0\n")
    data = CXRDataModule(str(patients), size=16, batch_size=1, copies=str(tmp_path / "copies.csv"))
    assert sorted(ids(data.train_dataloader())) == sorted([first] * 3 + rest)
    assert ids(data.val_dataloader()) == ids(plain.val_dataloader())

    outsider = plain.table("test").image_id.iloc[0]
    for content, word in ((f"{outsider},2", "no training image"), (f"{first},-1", "0 or more"), (f"{first},x", "read")):
        (tmp_path / "copies.csv").write_text(f"image_id,copies\n{content}\n")
        with pytest.raises(UserError, match=word):
            CXRDataModule(str(patients), size=16, copies=str(tmp_path / "copies.csv")).table("train")
    (tmp_path / "copies.csv").write_text("image_id,copies\n" + "".join(f"{i},0\n" for i in [first, second, *rest]))
    with pytest.raises(UserError, match="leaves no training image"):
        CXRDataModule(str(patients), size=16, copies=str(tmp_path / "copies.csv")).table("train")
    (tmp_path / "copies.csv").write_text(f"image_id,copies\n{first},2\n")
    with pytest.raises(UserError, match="natural"):
        CXRDataModule(str(patients), copies=str(tmp_path / "copies.csv"), sampling="balanced").train_dataloader()
