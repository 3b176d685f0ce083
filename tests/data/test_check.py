import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from cxrsynth.data import Manifest, read_image
from cxrsynth.data.check import check_manifest, print_report, probe_panels
from cxrsynth.data.duplicates import near_duplicates
from cxrsynth.data.geometry import to_square
from cxrsynth.data.odd import odd_images
from cxrsynth.data.signatures import Signatures, read_signatures


@pytest.fixture(scope="module")
def real(shared):
    """The real images, the six odd ones, and their signatures."""
    good = Manifest.load(shared / "cxr" / "metadata.csv")
    odd = pd.read_csv(shared / "cxr" / "odd.csv", dtype=str)
    odd["site"] = ["Montgomery" if image_id.startswith("MCU") else "NIH" for image_id in odd.image_id]
    manifest = good.select(ids=good.table.image_id[::3]) + Manifest.from_table(odd, shared / "cxr")
    return manifest, read_signatures(manifest), odd.image_id.tolist()


def test_real_odd_images_are_found_and_no_others(real):
    manifest, signatures, odd = real
    found = odd_images(signatures.ids, signatures.thumbnails, manifest.table.site.tolist())
    # the apical view looks like any other film to a thumbnail
    assert set(found) == set(odd) - {"MCUCXR_0251_1"}
    assert found["00003490_011"] == ["upside down"]
    assert found["00017999_000"] == ["inverted or badly exposed"]
    assert found["00005618_000"][0].startswith("tiny field")


def test_near_duplicates_of_real_images(real, tmp_path):
    manifest, signatures, _ = real
    assert near_duplicates(signatures) == []
    changes = {
        "gamma": lambda image: image**1.3,
        "contrast": lambda image: (image * 1.3 - 0.1).clamp(0, 1),
        "noise": lambda image: (image + 0.03 * torch.randn_like(image)).clamp(0, 1),
        "small": lambda image: to_square(image, 128),
    }
    rows = []
    for number, source in enumerate(manifest.table.image_id[:40]):
        name = list(changes)[number % 4]
        changed = changes[name](read_image(manifest.path(source)))[0]
        Image.fromarray((changed * 255).byte().numpy()).save(tmp_path / f"{source}.jpg", quality=60)
        rows.append({"image_id": f"{source}_{name}", "path": f"{source}.jpg", "labels": ""})
    copies = read_signatures(Manifest.from_table(pd.DataFrame(rows), tmp_path))
    thumbnails = np.concatenate([signatures.thumbnails, copies.thumbnails])
    ids = [*signatures.ids, *copies.ids]
    pairs = near_duplicates(Signatures(ids, ids, thumbnails, {}))
    assert sorted(second for _, second, _ in pairs) == sorted(copies.ids)
    assert all(second.startswith(first) for first, second, _ in pairs)


def test_blank_images_are_odd_and_no_duplicates_of_each_other():
    thumbnails = np.zeros((3, 64, 64), np.uint8) + np.array([0, 90, 255], np.uint8)[:, None, None]
    assert near_duplicates(Signatures(list("abc"), list("abc"), thumbnails, {})) == []
    assert odd_images(list("abc"), thumbnails, [""] * 3) == {i: ["blank"] for i in "abc"}


def test_report_of_an_archive_with_everything_wrong(patients):
    root = patients.parent
    frame = pd.read_csv(patients).assign(split=["train", "val"] * 30)
    frame.loc[5, "labels"] = "No Finding|A"
    frame.to_csv(patients, index=False)
    (root / "images" / "i02.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (root / "images" / "i03.png").unlink()
    Image.open(root / "images" / "i10.png").save(root / "images" / "i20.png", compress_level=1)
    pd.DataFrame([{"image_id": "gone", "label": "A", "x_min": 0, "y_min": 0, "x_max": 1, "y_max": 1}]).to_csv(
        root / "boxes.csv", index=False
    )
    report = check_manifest(Manifest.load(patients))
    assert (report.images, report.patients) == (60, 30)
    assert set(report.unreadable) == {"i02", "i03"}
    assert report.exact == [["i10", "i20"]]
    assert report.near == []
    assert report.contradictions == ["i05"]
    assert report.strays == ["gone"]
    assert len(report.torn_patients) == 30
    assert report.torn_duplicates == []
    assert report.counts["finding"] == {"No Finding": 30, "B": 30, "A": 11}
    assert report.counts["view"] == {"PA": 30, "AP": 30}
    assert report.counts["age"] == {"40-59": 20, "60-79": 20, "18-39": 10, "80-120": 10}
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    text = console.export_text()
    assert "unreadable: 2" in text
    assert "patients in two splits: 30" in text
    assert "and 20 more" in text


def test_panel_probe_finds_panels_that_differ():
    rng = np.random.default_rng(0)
    readers = np.repeat(["R1|R2|R3", "R8|R9|R10"], 200)
    biased = np.where(readers == "R1|R2|R3", rng.random(400) < 0.05, rng.random(400) < 0.9)
    fair = rng.random(400) < 0.4
    table = pd.DataFrame({"image_id": np.arange(400).astype(str), "readers": readers})
    probe = probe_panels(table.assign(abnormal_votes=biased * 2))
    assert probe is not None
    assert probe.auroc > 0.9
    assert probe.p_value < 1e-20
    calm = probe_panels(table.assign(abnormal_votes=fair * 1))
    assert calm is not None
    assert calm.auroc < 0.58
    assert calm.p_value > 0.01
    assert probe_panels(table) is None
