"""Random sizes, memory layouts and options: demons and warp against their plain references."""

import random

import pytest
import torch
import torch.nn.functional as F

from cxrsynth.ops import demons, demons_reference, warp, warp_reference


def transposed(x):
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def cut_out(x):
    """A window of a larger image: rows are not adjacent, and the first is not the storage's first."""
    return F.pad(x, (3, 5, 2, 1), value=float("nan"))[..., 2:-1, 3:-5]


def every_second_column(x):
    return x.repeat_interleave(2, dim=3)[..., ::2]


def expanded(x):
    """One item for the whole batch, with stride 0."""
    return x[:1].expand_as(x)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


LAYOUTS = (torch.Tensor.contiguous, transposed, cut_out, every_second_column, expanded, channels_last)


def drawn(seed):
    """Images and options of one random case."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    batch, height, width = draw.randint(1, 3), draw.randint(16, 80), draw.randint(16, 80)

    def image(channels, cells):
        coarse = torch.rand(batch, channels, cells, cells, dtype=torch.float64)
        return F.interpolate(coarse, (height, width), mode="bicubic")

    layouts = [draw.choice(LAYOUTS) for _ in range(4)]
    moving, fixed = layouts[0](image(1, 7)), layouts[1](image(1, 7))
    initial, mask = layouts[2](image(2, 4) * 4 - 2), layouts[3]((image(1, 4) > 0.3).double())
    levels = draw.choice([(1,), (2, 1), (3, 1), (4, 2, 1), (4,)])
    options = {
        "iterations": tuple(draw.randint(0, 5) for _ in levels),
        "shrink": levels,
        "force": draw.choice(["two_force", "esm", "thirion"]),
        "update": draw.choice(["additive", "diffeomorphic"]),
        "kernel": draw.choice(["gaussian", "itk", "box"]),
        "sigma_diffusion": draw.choice([0.0, 0.5, 1.0, 2.3, 4.0]),
        "sigma_fluid": draw.choice([0.0, 0.0, 1.2]),
        "max_step": draw.choice([None, 0.5, 2.0]),
        "mask": draw.choice([None, mask]),
        "initial_field": draw.choice([None, initial]),
        "tol": draw.choice([None, None, 0.1]),
    }
    return moving, fixed, initial, options


@pytest.mark.parametrize("seed", range(40))
def test_demons_equals_the_reference(seed):
    moving, fixed, _, options = drawn(seed)
    for ours, theirs in zip(demons(moving, fixed, **options), demons_reference(moving, fixed, **options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_warp_equals_the_reference(seed, mode):
    _, fixed, displacement, _ = drawn(seed)
    image = torch.cat([fixed, fixed.flip(2), 1 - fixed], dim=1)[:, : 1 + seed % 3]
    image = LAYOUTS[seed % len(LAYOUTS)](image)
    torch.testing.assert_close(
        warp(image, displacement, mode), warp_reference(image, displacement, mode), rtol=0, atol=1e-9
    )


def test_the_inputs_are_left_alone():
    moving, fixed, initial, _ = drawn(0)
    before = [x.clone() for x in (moving, fixed, initial)]
    demons(moving, fixed, initial_field=initial, mask=torch.ones_like(fixed))
    warp(moving, initial)
    assert all(torch.equal(a, b) for a, b in zip(before, (moving, fixed, initial), strict=True))
