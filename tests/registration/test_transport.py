import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.ops import warp
from cxrsynth.registration import transport
from cxrsynth.registration.align import affine_start, local_contrast, match_histogram


def chest(shift=0.0, width=0.5, size=96):
    """Two dark ovals in a bright trunk: enough of a chest to register."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    x = x - shift
    trunk = torch.sigmoid((0.9 - (x / 0.95) ** 2 - (y / 1.2) ** 4) * 12)
    lungs = sum(torch.sigmoid((1 - ((x - s * width) / (0.55 * width)) ** 2 - (y / 0.6) ** 2) * 6) for s in (-1, 1))
    return (trunk * (0.85 - 0.6 * lungs))[None, None], lungs[None, None]


def test_a_map_arrives_in_the_other_anatomy():
    exemplar, lungs = chest(0.08, 0.42)
    source, target = chest(-0.05, 0.5)
    found = transport(lungs, exemplar, source)

    def dice(a, b):
        return (2 * ((a > 0.5) & (b > 0.5)).sum() / ((a > 0.5).sum() + (b > 0.5).sum())).item()

    assert dice(lungs, target) < 0.85
    assert dice(found.map, target) > 0.92
    assert found.min_jacobian.item() > 0
    assert found.ncc.item() > 0.95


def test_batch_and_threads_change_no_bit():
    first, map_a = chest(0.1, 0.42, size=200)  # enough pixels for threads to share
    second, map_b = chest(-0.1, 0.5, size=200)
    together = transport(torch.cat([map_a, map_b]), torch.cat([first, second]), torch.cat([second, first]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = transport(map_b, second, first)
    torch.set_num_threads(threads)
    for name in ("map", "displacement", "ncc", "min_jacobian"):
        assert torch.equal(getattr(together, name)[1:], getattr(alone, name)), name


def test_matched_quantiles():
    moving, fixed = torch.rand(1, 1, 64, 64) ** 2, 0.3 + 0.5 * torch.rand(1, 1, 64, 64)
    levels = torch.tensor([0.1, 0.5, 0.9])
    matched = match_histogram(moving, fixed)
    torch.testing.assert_close(matched.quantile(levels), fixed.quantile(levels), rtol=0, atol=0.01)
    flat = torch.zeros(1, 1, 8, 8)
    assert match_histogram(flat, fixed).isfinite().all()


def test_affine_start_recovers_shift_and_scale():
    image, _ = chest(0.05, 0.45)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    field = torch.stack([0.12 * (x - 48) + 6, -0.08 * (y - 48) - 5])[None]
    found = affine_start(local_contrast(image), local_contrast(warp(image, field)))
    assert (found - field)[..., 16:-16, 16:-16].abs().mean() < 1.0


def test_local_contrast_forgets_exposure():
    image, _ = chest()
    dim, usual = local_contrast(0.6 * image), local_contrast(image)
    assert (dim - usual).abs().mean() < 0.1 * usual.abs().mean()
    assert local_contrast(torch.zeros(1, 1, 32, 32)).abs().max() == 0


def test_local_contrast_is_that_of_the_mirrored_image():
    image, _ = chest(0.1, 0.45)
    expected = local_contrast(image).flip(-1)
    torch.testing.assert_close(local_contrast(image.flip(-1)), expected, rtol=0, atol=1e-5)


def test_missing_values_count_as_black():
    image, _ = chest()
    missing, black = image.clone(), image.clone()
    missing[..., 20:30, 40:44], black[..., 20:30, 40:44] = torch.nan, 0
    assert torch.equal(local_contrast(missing), local_contrast(black))
    moving, fixed = local_contrast(image), local_contrast(black)
    fixed[..., 3, 3] = torch.nan
    assert affine_start(moving, fixed).isfinite().all()


def test_shapes_must_fit():
    with pytest.raises(UserError, match="transport: map is"):
        transport(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8))
