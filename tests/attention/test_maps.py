import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxrsynth.attention.localisation import (
    METHODS,
    average_maps,
    brightest,
    centre_map,
    iou,
    localise,
    pointing,
    truths,
)
from cxrsynth.attention.maps import averaged_maps, collect_maps, finding_map, patch_maps
from cxrsynth.data import CXRDataModule
from cxrsynth.data.maps import MapStore
from cxrsynth.errors import UserError

FINDINGS = ["Mass", "Nodule"]


class Seer:
    """Knows where the lesions are: a bright square in the image."""

    findings = FINDINGS

    def maps(self, image):
        small = torch.nn.functional.avg_pool2d(image, 8)
        return small.expand(-1, 2, -1, -1) / small.sum((-2, -1), keepdim=True)


@pytest.fixture
def archive(tmp_path):
    """Wide images, 32 x 64, a 8 x 8 lesion in each diseased one, at another place in training than in test."""
    rows, boxes, masks = [], [], []
    for index in range(12):
        split = ("train", "train", "test")[index % 3]
        pixels = np.zeros((32, 64), dtype=np.uint8)
        top, left = (8, 8) if split == "train" else (16, 48)
        pixels[top : top + 8, left : left + 8] = 255
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        label = FINDINGS[index % 2]
        rows.append({"image_id": f"i{index}", "path": f"{index}.png", "labels": label, "split": split})
        if index % 2:
            boxes.append((f"i{index}", label, left, top, left + 8, top + 8))
        else:
            Image.fromarray(pixels).save(tmp_path / f"m{index}.png")
            masks.append((f"i{index}", f"m{index}.png", label))
    pd.DataFrame(rows).to_csv(tmp_path / "metadata.csv", index=False)
    columns = ["image_id", "label", "x_min", "y_min", "x_max", "y_max"]
    pd.DataFrame(boxes, columns=columns).to_csv(tmp_path / "boxes.csv", index=False)
    pd.DataFrame(masks, columns=["image_id", "path", "structure"]).to_csv(tmp_path / "masks.csv", index=False)
    return tmp_path


def data_of(archive, **changes):
    return CXRDataModule(str(archive / "metadata.csv"), **{"size": 64, "findings": FINDINGS, "batch_size": 3} | changes)


def test_patch_maps_lie_as_the_patches():
    attention = torch.rand(1, 3, 2, 6)
    maps = patch_maps(attention, (2, 3))
    torch.testing.assert_close(maps[0, 1, 1, 2], attention[0, :, 1, 5].mean())


def test_views_are_moved_back_before_they_are_averaged():
    def brightness(image):
        pooled = torch.nn.functional.avg_pool2d(image, 8)
        return pooled / pooled.sum((-2, -1), keepdim=True)

    image = torch.zeros(1, 1, 64, 64)
    image[..., 20:28, 36:44] = 1  # half a patch off the grid in both directions
    y, x = torch.meshgrid(torch.arange(16) * 4 + 2.0, torch.arange(16) * 4 + 2.0, indexing="ij")
    for smooth in (0.0, 0.5):
        map = averaged_maps(brightness, image, 8, views=2, smooth=smooth)[0, 0]
        assert map.shape == (16, 16)
        torch.testing.assert_close(map.sum(), torch.tensor(1.0))
        assert abs((map * y).sum() - 24) < 0.1
        assert abs((map * x).sum() - 40) < 0.1
        torch.testing.assert_close(map[5:7, 9:11].mean(), map.max())
    torch.testing.assert_close(averaged_maps(brightness, image, 8), brightness(image))


def test_finding_map_is_scaled_then_brightened():
    maps = torch.rand(2, 3, 4, 4)
    plain, bright = finding_map(maps, (16, 16), gamma=1), finding_map(maps, (16, 16))
    assert plain.amax((-2, -1)).eq(1).all()
    torch.testing.assert_close(bright, plain**0.5)
    assert finding_map(torch.zeros(1, 1, 2, 2), (4, 4)).sum() == 0


def test_measures_on_known_shapes():
    truth = torch.zeros(10, 10)
    truth[2:6, 2:6] = 1
    region = torch.zeros(10, 10)
    region[4:8, 2:6] = 1
    assert iou(region, truth) == pytest.approx(8 / 24)
    map = torch.zeros(10, 10)
    map[5, 5] = 1
    assert pointing(map, truth)
    map[6, 5] = 2
    assert not pointing(map, truth)
    assert centre_map(5).argmax() == 12
    assert brightest(centre_map(5), 5).sum() == 5
    assert brightest(centre_map(5), 5)[2, 1:4].all()


def test_boxes_and_masks_land_on_the_square(archive):
    data = data_of(archive)
    data.setup("test")
    masks = truths(data.manifest("test"), "i2", 128)  # a mask; the image is padded to 64 x 64 and doubled
    boxes = truths(data.manifest("test"), "i5", 128)
    expected = torch.zeros(128, 128)
    expected[64:80, 96:112] = 1
    assert torch.equal(masks["Mass"], expected)
    assert torch.equal(boxes["Nodule"], expected)


def test_collect_and_localise(archive):
    data, out = data_of(archive), archive / "maps.npz"
    assert collect_maps(Seer(), data, out) == 8
    store = MapStore(out)
    assert store.maps.shape == (8, 8, 8)
    assert store.maps.amax((1, 2)).eq(1).all()
    means = average_maps(store, FINDINGS, 64)
    assert means["Mass"][24 + 4, 12] > 0.9  # rows are moved down by the padding of 16
    rows = localise(Seer(), data, out)
    assert set(rows["method"]) == set(METHODS)
    assert len(rows) == 4 * len(METHODS)
    score = rows.groupby("method")[["pointing", "iou"]].mean()
    assert score.loc["attention", "pointing"] == 1
    assert score.loc["attention", "iou"] > 0.4
    assert score.loc[["average_map", "centre"], "pointing"].eq(0).all()
    assert rows["area_share"].eq(64 / 64**2).all()


@pytest.mark.parametrize("rows", [32, 0])
def test_maps_stay_where_findings_may_lie(archive, monkeypatch, rows):
    """Lungs in the upper rows only, or nowhere: maps end there, and an image without lungs gives none."""
    free, limited = archive / "free.npz", archive / "limited.npz"
    collect_maps(Seer(), data_of(archive), free)

    def lungs(image):
        mask = torch.zeros_like(image, dtype=torch.bool)
        mask[:, :, :rows] = True
        return mask

    monkeypatch.setattr("cxrsynth.anatomy.segmenter.segment", lungs)
    if rows == 0:
        with pytest.raises(UserError, match="no map to write"):
            collect_maps(Seer(), data_of(archive), limited, limit="lungs")
        return
    collect_maps(Seer(), data_of(archive), limited, limit="lungs")
    before, after = MapStore(free), MapStore(limited)
    assert after.maps[:, 4:].eq(0).all()
    assert after.maps.amax((1, 2)).eq(1).all()
    assert len(after.maps) == int((before.maps[:, :4] > 0).flatten(1).any(1).sum())


def test_other_findings_are_refused(archive):
    with pytest.raises(UserError, match="same findings"):
        collect_maps(Seer(), data_of(archive, findings=FINDINGS[::-1]), archive / "maps.npz")
