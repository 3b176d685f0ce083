import re

import pytest
import torch
from torch.nn import functional as F

from cxrsynth.errors import UserError
from cxrsynth.ops.extension import kernels
from cxrsynth.ops.norm import norm_silu, norm_silu_reference


def example(channels=32, dtype=torch.float32, shape=(3, 7, 5), spread=2.0, mean=3.0):
    x = (spread * torch.randn(shape[0], channels, *shape[1:]) + mean).to(dtype)
    weight, bias, shift = torch.randn(channels), torch.randn(channels), torch.randn(shape[0], channels)
    return x.contiguous(memory_format=torch.channels_last), weight, bias, shift


@pytest.fixture
def ran(monkeypatch):
    """Counts calls of the kernel."""
    calls = []

    class Counted:
        NormBatch = staticmethod(kernels().NormBatch)

        def norm_silu(self, *arguments):
            calls.append(arguments)
            return kernels().norm_silu(*arguments)

    monkeypatch.setattr("cxrsynth.ops.norm.kernels", Counted)
    return calls


@torch.no_grad()
@pytest.mark.parametrize("groups", [1, 8, 32])
@pytest.mark.parametrize("channels", [32, 96])
def test_it_is_the_two_layers(path, ran, channels, groups):
    x, weight, bias, shift = example(channels)
    exact = F.silu(F.group_norm(x.double() + shift[:, :, None, None], groups, weight.double(), bias.double(), 1e-6))
    found = norm_silu(x, groups, weight, bias, 1e-6, shift)
    torch.testing.assert_close(found, exact.float(), atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(found, norm_silu_reference(x, groups, weight, bias, 1e-6, shift), atol=1e-5, rtol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
    plain = norm_silu(x, groups, weight, bias, 1e-6)
    torch.testing.assert_close(plain, norm_silu_reference(x, groups, weight, bias, 1e-6), atol=1e-5, rtol=1e-5)
    assert len(ran) == 2


@torch.no_grad()
def test_bfloat16_is_rounded_once(path, ran):
    x, weight, bias, shift = example(dtype=torch.bfloat16)
    found = norm_silu(x, 8, weight, bias, 1e-5, shift)
    exact = norm_silu_reference(x.float(), 8, weight, bias, 1e-5, shift)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, atol=2**-20, rtol=2**-8)  # half a unit of the last place
    assert len(ran) == 1


@torch.no_grad()
def test_all_paths_give_the_same_bits(ran, set_path):
    x, weight, bias, shift = example(64)
    results = []
    for name in kernels().usable_paths():
        set_path(name)
        results.append(norm_silu(x, 8, weight, bias, 1e-5, shift))
    assert all(torch.equal(result, results[0]) for result in results)
    assert len(ran) == len(results)


@torch.no_grad()
def test_hard_numbers():
    x, weight, bias, _ = example(32)
    far = norm_silu(x + 1000, 8, weight, bias)  # the mean is far from 0
    exact = F.silu(F.group_norm((x + 1000).double(), 8, weight.double(), bias.double(), 1e-5)).float()
    torch.testing.assert_close(far, exact, atol=2e-3, rtol=2e-3)
    steep = norm_silu(x, 8, 60 * torch.ones(32), torch.zeros(32))  # arguments beyond +-87
    exact = F.silu(F.group_norm(x.double(), 8, 60 * torch.ones(32).double(), torch.zeros(32).double(), 1e-5)).float()
    torch.testing.assert_close(steep, exact, atol=1e-4, rtol=1e-5)
    constant = norm_silu(torch.ones_like(x), 8, weight, bias)
    torch.testing.assert_close(constant, F.silu(bias)[None, :, None, None].expand_as(x), atol=1e-6, rtol=1e-6)
    x[1, 3, 2, 2] = torch.nan
    found = norm_silu(x, 8, weight, bias).isnan()
    assert found[1, :4].all()  # its group alone
    assert not found[0].any()
    assert not found[1, 4:].any()


@torch.no_grad()
def test_what_is_not_finite_stays_so_in_bfloat16(path, ran):
    x, weight, bias, _ = example(dtype=torch.bfloat16)
    bias[3] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)  # NaN that would carry over when rounded
    bias[4], bias[5] = torch.inf, torch.finfo(torch.float32).max  # which bfloat16 rounds to infinity
    found = norm_silu(x, 8, weight, bias)
    assert found[:, 3].isnan().all()
    assert (found[:, 4:6] == torch.inf).all()
    assert found[:, :3].isfinite().all()
    assert found[:, 6:].isfinite().all()
    assert len(ran) == 1


@torch.no_grad()
@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_a_large_image_is_as_exact_as_a_small_one(path, mean):
    x, weight, bias, _ = example(16, shape=(1, 512, 512), spread=1.0, mean=mean)
    exact = F.silu(F.group_norm(x.double(), 4, weight.double(), bias.double(), 1e-5))
    assert (norm_silu(x, 4, weight, bias) - exact).abs().max() < 1e-5 + 1e-6 * mean


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (96, 8), (96, 96), (160, 10), (64, 1)])
def test_one_image_does_not_depend_on_its_batch_or_the_threads(ran, threads, dtype, channels, groups):
    x, *factors, shift = example(channels, dtype, shape=(4, 9, 8))
    threads(1)
    whole = norm_silu(x, groups, *factors, 1e-5, shift)
    for count in (1, 3, 7, 40):
        threads(count)
        assert torch.equal(norm_silu(x, groups, *factors, 1e-5, shift), whole)
        one = norm_silu(x[2:3].contiguous(memory_format=torch.channels_last), groups, *factors, 1e-5, shift[2:3])
        assert torch.equal(one, whole[2:3])
    assert [arguments[-1] for arguments in ran] == [1, 1, 1, 3, 3, 7, 7, 40, 40]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "shape"), [("x", (3, 32, 7)), ("weight", (31,)), ("bias", (1, 32)), ("shift", (1, 32)), ("shift", (3, 16))]
)
def test_shapes_that_do_not_fit_are_said(ran, name, shape):
    x, weight, bias, shift = example(32)
    given = {"x": x, "weight": weight, "bias": bias, "shift": shift, name: torch.zeros(shape)}
    with pytest.raises(UserError, match=rf"norm_silu: {name} is {re.escape(str(shape))}"):
        norm_silu(**given, groups=8)
    assert not ran


@pytest.mark.parametrize("case", ["gradient", "layout", "channels", "double"])
def test_it_steps_aside(ran, case):
    x, weight, bias, shift = example(24 if case == "channels" else 32)
    if case == "layout":
        x = x.contiguous()
    if case == "double":
        x, weight, bias, shift = (t.double() for t in (x, weight, bias, shift))
    x.requires_grad_(case == "gradient")
    result = norm_silu(x, 8, weight, bias, 1e-5, shift)
    torch.testing.assert_close(result, norm_silu_reference(x, 8, weight, bias, 1e-5, shift))
    if case == "gradient":
        result.sum().backward()
        assert x.grad is not None
    assert not ran
