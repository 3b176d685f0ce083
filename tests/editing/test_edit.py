"""The function: arrays in, arrays out."""

import numpy as np
import pytest
import torch

from cxrsynth.data.stored import StoredImage, plain_curve
from cxrsynth.editing import edit
from cxrsynth.errors import UserError
from cxrsynth.inpainting import load_inpainter


@pytest.fixture(scope="module")
def task(checkpoints):
    return load_inpainter(checkpoints / "inpainting.ckpt")


ASKED = {"finding": "Pleural effusion", "box": (10, 20, 50, 60), "steps": 1}


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float64", "tensor", "stored"])
def test_arrays_of_any_kind_are_exact_outside_and_left_alone(task, film, kind):
    pixels = film(100, 80)
    images = {
        "uint8": (pixels * 255).astype(np.uint8),
        "uint16": (pixels * 65535).astype(np.uint16),
        "float32": pixels.astype(np.float32),
        "float64": pixels,
        "tensor": torch.from_numpy(pixels).float()[None, None],
        "stored": StoredImage((pixels * 4095).astype(np.uint16), plain_curve(12), 0, "MONOCHROME2", 12),
    }
    given = images[kind]
    array = given.stored if isinstance(given, StoredImage) else np.asarray(given).squeeze()
    before = array.copy()
    made = edit(given, checkpoint=task, **ASKED)
    np.testing.assert_array_equal(array, before)
    assert made.pixels.dtype == before.dtype
    assert made.region.sum() == 40 * 40
    np.testing.assert_array_equal(made.pixels[~made.region], before[~made.region])
    assert (made.pixels[made.region] != before[made.region]).mean() > 0.9
    assert made.record["finding"] == ["Effusion"]


def test_floats_and_stored_values_are_painted_alike(task, film):
    pixels = np.round(film(100, 80) * 65535)
    floats = edit((pixels / 65535).astype(np.float32), checkpoint=task, **ASKED)
    stored = edit(pixels.astype(np.uint16), checkpoint=task, **ASKED)
    np.testing.assert_allclose(stored.pixels / 65535, floats.pixels, atol=2 / 65535)


def test_the_window_task_paints_the_same(task, film):
    """The strips of one image against the tensors of a batch."""
    image = torch.from_numpy(film(100, 80)).float()[None, None]
    region = torch.zeros_like(image)
    region[..., 20:60, 10:50] = 1
    batch = task.inpaint(image, region, task.condition(1, ["Effusion"]), seeds=[0], steps=1)
    alone = edit(image, checkpoint=task, **ASKED, feather=0)
    torch.testing.assert_close(torch.from_numpy(alone.pixels), batch[0, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((2, 10, 10), np.uint8), "shape"),
        (np.zeros((10, 10), np.int64), "int64"),
        (np.full((10, 10), 1.5), "floats from 0 to 1"),
        (np.full((10, 10), np.nan), "floats from 0 to 1"),
    ],
)
def test_arrays_that_are_no_images_are_refused(task, image, words):
    with pytest.raises(UserError, match=words):
        edit(image, checkpoint=task, finding="Nodule", full=True, steps=1)


def test_a_new_film_holds_nothing_of_the_source(task):
    films = torch.rand(2, 70, 50).numpy()
    made = [edit(film, checkpoint=task, finding="Effusion", full=True, steps=2, seed=4) for film in films]
    np.testing.assert_array_equal(made[0].pixels, made[1].pixels)
    assert made[0].record["region"]["details"], "the fixture's task knows where an effusion lies and how large it is"
    kept = [edit(film, checkpoint=task, finding="Effusion", full=True, steps=2, strength=0.5) for film in films]
    assert np.abs(kept[0].pixels - kept[1].pixels).mean() > 0.1
    assert "details" not in kept[0].record["region"]


def test_what_is_asked_of_a_new_film_is_painted_again_at_its_usual_place(task):
    film = np.full((64, 64), 0.5)
    asked = {"checkpoint": task, "full": True, "steps": 2, "seed": 4}
    known, unknown = (edit(film, finding=name, **asked) for name in ("Effusion", "Nodule"))  # of one a map was added
    ((left, top, right, bottom),) = known.record["region"]["details"]
    assert unknown.record["region"]["details"] == []
    assert 0 <= left < right <= 64
    assert 0 <= top < bottom <= 64
    healthy = edit(film, finding="Effusion", remove=True, **asked)
    assert healthy.record["region"]["details"] == []
