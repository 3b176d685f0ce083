import json

import numpy as np
import pytest
from PIL import Image

from cxrsynth.data.reading import read_stored
from cxrsynth.data.stored import StoredImage
from cxrsynth.errors import UserError
from cxrsynth.evaluation.exactness import check_exactness, difference_outside
from cxrsynth.synthesis.provenance import read_provenance


@pytest.fixture
def run(tmp_path):
    """An archive of one 16-bit source and a run of two images made from it, both painted in a square."""
    generator = np.random.default_rng(0)
    source = generator.integers(0, 4096, (40, 30)).astype(np.uint16)
    (tmp_path / "archive").mkdir()
    for name in ("images", "regions"):
        (tmp_path / "run" / name).mkdir(parents=True)
    Image.fromarray(source).save(tmp_path / "archive" / "s.png")
    region = np.zeros((40, 30), np.uint8)
    region[10:20, 5:15] = 255
    stored = read_stored(tmp_path / "archive" / "s.png")
    records = []
    for identity in ("a", "b"):
        stored.paste(generator.random((40, 30)), region > 0).save_png(tmp_path / "run" / "images" / f"{identity}.png")
        Image.fromarray(region).save(tmp_path / "run" / "regions" / f"{identity}.png")
        records.append(
            {
                "id": identity,
                "image": f"images/{identity}.png",
                "region": f"regions/{identity}.png",
                "source_path": "s.png",
            }
        )
    (tmp_path / "run" / "provenance.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def test_untouched_outside_is_exact(run):
    result = check_exactness(run / "run", run / "archive")
    assert (result.images, result.exact, result.offenders) == (2, 2, {})
    assert result.painted["a"] == pytest.approx(100 / 1200)


def test_one_changed_value_is_found(run):
    path = run / "run" / "images" / "b.png"
    made = read_stored(path)
    made.stored[3, 4] ^= 1
    made.save_png(path)
    result = check_exactness(run / "run", run / "archive")
    assert result.exact == 1
    assert "1 pixels outside the region changed, the first at row 3, column 4" in result.offenders["b"]


def test_missing_and_foreign_files_are_offenders(run):
    (run / "run" / "images" / "a.png").unlink()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(run / "run" / "regions" / "b.png")
    offenders = check_exactness(run / "run", run / "archive").offenders
    assert "cannot read" in offenders["a"]
    assert "sizes differ" in offenders["b"]
    outside = {"id": "c", "image": "images/a.png", "region": "regions/a.png", "source_path": "../secret.png"}
    assert "leaves its folder" in check_exactness(run / "run", run / "archive", [outside]).offenders["c"]


def test_signed_values_and_their_display_survive(tmp_path):
    stored = np.random.default_rng(0).integers(-1000, 1000, (8, 8)).astype(np.int16)
    curve = np.linspace(1, 0, 2001).astype(np.float32)
    source = StoredImage(stored, curve, -1000, "MONOCHROME1", 12)
    region = np.zeros((8, 8), bool)
    region[:3] = True
    source.paste(np.full((8, 8), 0.5), region).save_png(tmp_path / "made.png")
    made = read_stored(tmp_path / "made.png")
    quantised = StoredImage(stored, np.round(curve * 65535) / np.float32(65535), -1000, "MONOCHROME1", 12)
    assert difference_outside(quantised, made, region) is None
    brighter = StoredImage(stored, quantised.curve * np.float32(0.9), -1000, "MONOCHROME1", 12)
    assert "another curve" in str(difference_outside(brighter, made, region))


def test_damaged_provenance(tmp_path):
    (tmp_path / "provenance.jsonl").write_text('{"id": "a"}\nnot json\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        read_provenance(tmp_path)
