import pytest
import torch
from monai.metrics import compute_dice

from cxrsynth.anatomy import Segmenter, chest_field, load_segmenter, save_segmenter, segment
from cxrsynth.anatomy.datamodule import MaskDataModule
from cxrsynth.anatomy.segmenter import SHIPPED
from cxrsynth.data import Manifest, read_image
from cxrsynth.data.phantom import simulate
from cxrsynth.errors import UserError

SMALL = {"size": 64, "channels": [4, 8]}


@pytest.fixture(scope="module")
def films():
    """Phantom films of an archive that no training has seen, with and without findings."""
    return [simulate(index, seed=901, size=160) for index in range(8)]


def test_a_file_brings_back_the_same_network(tmp_path):
    made = Segmenter(["lungs"], **SMALL).eval()
    path = save_segmenter(made, tmp_path / "made.safetensors")
    image = torch.rand(2, 1, 64, 64)
    assert load_segmenter(path)(image).equal(made(image))


def test_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.safetensors"):
        load_segmenter(tmp_path / "text.safetensors")
    with pytest.raises(UserError, match=r"none\.safetensors"):
        load_segmenter(tmp_path / "none.safetensors")


def test_grey_scale_and_offset_change_nothing():
    network = Segmenter(["lungs"], **SMALL).eval()
    image = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(network(0.5 * image + 0.2), network(image), rtol=1e-4, atol=1e-4)


def test_bad_arguments_are_refused():
    with pytest.raises(UserError, match="structures"):
        Segmenter(["liver"])
    with pytest.raises(UserError, match="multiple of 16"):
        Segmenter(size=100)
    with pytest.raises(UserError, match="structure is 'spine'"):
        segment(torch.rand(1, 1, 32, 32), "spine")
    with pytest.raises(UserError, match="image has shape"):
        segment(torch.rand(1, 32, 32))


def test_the_shipped_weights_are_small_and_have_a_card_with_its_citations():
    assert SHIPPED.stat().st_size < 4e6
    card = SHIPPED.with_suffix(".md").read_text()
    for name in ("Jaeger", "Candemir", "Montgomery County", "National Library of Medicine"):
        assert name in card


@pytest.mark.parametrize(("structure", "least"), [("lungs", 0.93), ("heart", 0.85)])
def test_organs_of_the_phantom_are_found(films, structure, least):
    image = torch.stack([torch.from_numpy(film.image)[None].float() for film in films])
    organs = {"lungs": lambda a: a.lungs[0].field + a.lungs[1].field, "heart": lambda a: a.heart}
    truth = torch.stack([torch.from_numpy(organs[structure](film.anatomy) > 0.5)[None] for film in films])
    assert compute_dice(segment(image, structure), truth, include_background=True).mean() > least


def test_any_shape_goes_in_and_comes_out(films):
    image = torch.from_numpy(films[0].image)[None, None].float()
    wide = torch.nn.functional.pad(image, (30, 30, 0, 0))
    inner = segment(wide)[..., 30:-30]
    assert segment(wide).shape == wide.shape
    assert compute_dice(inner, segment(image), include_background=True) > 0.9


def test_an_empty_film_has_no_lungs_or_at_least_does_not_fail():
    found = segment(torch.zeros(1, 1, 64, 64))
    assert found.dtype == torch.bool
    assert chest_field(found).shape == found.shape


def test_lungs_of_held_out_patients_are_found(shared):
    data = MaskDataModule(str(shared / "cxr" / "metadata.csv"), fractions=[0.6, 0.1, 0.3])
    test = data.dataset("test")
    assert compute_dice(segment(test.images), test.masks[:, :1], include_background=True).mean() > 0.94


def test_lungs_on_films_without_masks_look_like_lungs(shared):
    """NIH films, AP and PA: two parts side by side, of a plausible size."""
    manifest = Manifest.load(shared / "cxr" / "metadata.csv").select(sites=["NIH"])
    for view in ("PA", "AP"):
        ids = manifest.select(views=[view]).table.image_id[:12]
        lungs = segment(torch.stack([read_image(manifest.path(i)) for i in ids]))
        area = lungs.float().mean((1, 2, 3))
        assert ((area > 0.08) & (area < 0.6)).float().mean() > 0.9
