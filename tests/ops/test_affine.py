import pytest
import torch
import torch.nn.functional as F

from cxrsynth.errors import UserError
from cxrsynth.ops import warp
from cxrsynth.ops.affine import affine, affine_reference

IDENTITY = torch.eye(2, 3, dtype=torch.float64)


def image(n, seed, smooth=7):
    noise = torch.randn(1, 1, smooth, smooth, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.interpolate(noise, (n, n), mode="bicubic")[0, 0]


def starts(count=9, spread=0.15, seed=3):
    draw = torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return IDENTITY + spread * draw


def moved(fixed, a):
    """`fixed` seen through the map a."""
    n = len(fixed)
    centre = (2 * torch.arange(n) + 1) / n - 1
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    to = torch.einsum("cd,dhw->chw", a, torch.stack([x, y, torch.ones_like(x)]).double())
    return warp(fixed[None, None], (to - torch.stack([x, y]))[None] * n / 2)[0, 0]


@pytest.mark.parametrize("n", [2, 3, 5, 16, 31, 32, 33, 64, 75])
@pytest.mark.parametrize("iterations", [1, 4, 20])
def test_it_is_the_reference(n, iterations):
    for seed in range(3):
        moving, fixed = image(n, seed), image(n, seed + 10)
        given = starts(seed=seed)
        expected = affine_reference(moving, fixed, given, iterations)
        torch.testing.assert_close(affine(moving, fixed, given, iterations), expected, rtol=0, atol=1e-8)


def test_it_finds_a_map():
    moving = image(48, 0)
    true = torch.tensor([[0.9, 0.05, 0.06], [-0.04, 1.0, -0.08]], dtype=torch.float64)
    found = affine(moving, moved(moving, true), IDENTITY[None], 20)[0]
    assert (found - true).abs().max() < 0.02


def test_the_best_comes_first_and_ties_keep_their_order():
    moving = image(32, 0)
    true = torch.tensor([[1.0, 0, 0.05], [0, 1, 0]], dtype=torch.float64)
    far = torch.tensor([[1.0, 0, -0.6], [0, 1, 0.6]], dtype=torch.float64)
    given = torch.stack([far, true, far])
    found = affine(moving, moved(moving, true), given, 1)  # one iteration judges starts and changes none
    assert torch.equal(found, torch.stack([true, far, far]))
    assert torch.equal(affine(moving, moving, given, 0), given)


def test_maps_that_leave_the_image_stay_as_they_were():
    moving, fixed = image(32, 0), image(32, 1)
    gone = torch.tensor([[[1.0, 0, 1.5], [0, 1, 0]], [[1.0, 0, 0], [0, 9, 0]]], dtype=torch.float64)
    wild = torch.tensor([[[torch.nan, 0, 0], [0, 1, 0]], [[torch.inf, 0, 1e300], [0, 1, 0]]], dtype=torch.float64)
    assert torch.equal(affine(moving, fixed, gone, 8), gone)
    torch.testing.assert_close(affine(moving, fixed, wild, 8), wild, rtol=0, atol=0, equal_nan=True)
    mixed = torch.cat([gone, starts(2)])
    expected = affine_reference(moving, fixed, mixed, 8)
    torch.testing.assert_close(affine(moving, fixed, mixed, 8), expected, rtol=0, atol=1e-9)
    assert torch.equal(expected[2:], gone)


@pytest.mark.parametrize("level", [0.0, 0.3, -1e6])
@pytest.mark.parametrize("flat", ["moving", "fixed", "both"])
def test_nothing_is_found_in_a_constant_image(level, flat):
    constant, other = torch.full((33, 33), level, dtype=torch.float64), image(33, 0)
    pair = (other if flat == "fixed" else constant, other if flat == "moving" else constant)
    given = starts(3)
    assert torch.equal(affine(*pair, given, 8), given)
    assert torch.equal(affine_reference(*pair, given, 8), given)


def test_brightness_and_contrast_do_not_matter():
    moving, fixed = image(32, 0), image(32, 1)
    expected = affine(moving, fixed, starts(), 8)
    torch.testing.assert_close(affine(moving, 1000 + 3 * fixed, starts(), 8), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(affine(1000 + moving, fixed, starts(), 8), expected, rtol=0, atol=1e-9)


def test_an_image_with_a_slope_in_one_direction_only():
    moving = torch.linspace(0, 1, 32, dtype=torch.float64).expand(32, 32)
    found = affine(moving, moved(moving, starts(1)[0]), IDENTITY[None], 8)
    assert found.isfinite().all()


def test_starts_and_threads_change_no_bit(threads, path):
    moving, fixed = image(47, 0), image(47, 1)
    given = starts()
    threads(1)
    together = affine(moving, fixed, given, 8)
    alone = torch.cat([affine(moving, fixed, one[None], 8) for one in given])
    assert sorted(alone.flatten(1).tolist()) == sorted(together.flatten(1).tolist())
    threads(3)
    assert torch.equal(affine(moving, fixed, given, 8), together)


def test_arguments_are_left_alone():
    moving, fixed, given = image(40, 0)[::2, ::2], image(20, 1).T, starts()
    kept = given.clone()
    found = affine(moving, fixed, given, 4)
    assert torch.equal(given, kept)
    assert torch.equal(found, affine(moving.contiguous(), fixed.contiguous(), given, 4))


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(4, 5).double(), torch.zeros(4, 5).double(), starts()),
        (torch.zeros(1, 1).double(), torch.zeros(1, 1).double(), starts()),
        (torch.zeros(4, 4).double(), torch.zeros(5, 5).double(), starts()),
        (torch.zeros(4, 4), torch.zeros(4, 4), starts()),
        (torch.zeros(4, 4).double(), torch.zeros(4, 4).double(), starts()[0]),
        (torch.zeros(4, 4).double(), torch.zeros(4, 4).double(), starts().float()),
        (torch.tensor(0.0).double(), torch.tensor(0.0).double(), torch.tensor(0.0).double()),
    ],
)
def test_what_does_not_fit_is_said(arguments):
    with pytest.raises(UserError, match="affine: moving, fixed and starts are"):
        affine(*arguments, 4)
