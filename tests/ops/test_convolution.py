import pytest
import torch
from torch.nn import functional as F

from cxrsynth.ops import convolution
from cxrsynth.ops.convolution import G, conv3x3, filter_points
from cxrsynth.ops.extension import kernels


def example(inside=32, outside=48, shape=(3, 12, 12)):
    x = torch.randn(shape[0], inside, *shape[1:]).contiguous(memory_format=torch.channels_last)
    return x, torch.randn(outside, inside, 3, 3), torch.randn(outside)


@pytest.fixture
def ran(monkeypatch):
    """Counts calls that took the kernels' way."""
    calls = []
    monkeypatch.setattr(convolution, "workspace", lambda n, f=convolution.workspace: calls.append(n) or f(n))
    return calls


def test_the_transforms_are_those_of_lavin_and_gray():
    """Their equation 14 with the matrices of section 4.1.2, on one tile."""
    b = torch.tensor(
        [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
         [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    ).double()  # fmt: skip
    a = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]).double()
    g, d, w = torch.tensor(G, dtype=torch.float64), torch.randn(6, 6).double(), torch.randn(3, 3).double()
    out = a @ ((g @ w @ g.T) * (b @ d @ b.T)) @ a.T
    torch.testing.assert_close(out, F.conv2d(d[None, None], w[None, None])[0, 0])
    torch.testing.assert_close(filter_points(w[None, None]).view(6, 6), (g @ w @ g.T).float())


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 12), (2, 9, 14), (1, 33, 8), (5, 11, 21)])
@pytest.mark.parametrize("channels", [(32, 32), (16, 80), (64, 48)])
def test_it_is_the_convolution(path, ran, shape, channels):
    x, weight, bias = example(*channels, shape)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    found = conv3x3(x, weight, bias)
    torch.testing.assert_close(found.double(), exact, atol=2e-3, rtol=0)  # of a standard deviation of 12 to 24
    assert (found - exact).std() < 1e-5 * exact.std()
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(conv3x3(x, weight, None), conv3x3(x, weight, torch.zeros_like(bias)))
    assert len(ran) == 3


@torch.no_grad()
def test_all_paths_give_the_same(set_path):
    x, weight, bias = example(shape=(2, 13, 18))
    results = []
    for name in kernels().usable_paths():
        set_path(name)
        results.append(conv3x3(x, weight, bias))
    assert all(torch.equal(result, results[0]) for result in results)


@torch.no_grad()
@pytest.mark.parametrize("numbers", [1, 1 << 14, 1 << 19])
def test_one_image_does_not_depend_on_its_batch_the_threads_or_the_workspace(numbers, monkeypatch, threads):
    x, weight, bias = example(shape=(4, 17, 12))
    whole = conv3x3(x, weight, bias)
    monkeypatch.setattr(convolution, "WORKSPACE", numbers)
    for count in (1, 2, 3):
        threads(count)
        assert torch.equal(conv3x3(x, weight, bias), whole)
        one = x[2:3].contiguous(memory_format=torch.channels_last)
        assert torch.equal(conv3x3(one, weight, bias), whole[2:3])


@torch.no_grad()
def test_a_missing_number_stays_in_its_tile_and_its_neighbours(ran):
    x, weight, bias = example(shape=(2, 16, 16))
    x[0, 3, 5, 5] = torch.nan
    found = conv3x3(x, weight, bias).isnan()
    assert found[0, :, 4:7, 4:7].all()  # as in the plain way
    assert found[0, :, 4:8, 4:8].all()  # and its tile
    assert not found[0, :, 8:].any()
    assert not found[1].any()
    conv3x3(x[1:], weight, bias)  # what it left in the workspace does no harm
    assert not conv3x3(x[1:].contiguous(memory_format=torch.channels_last), weight, bias).isnan().any()
    assert len(ran) >= 2


def test_the_workspace_serves_with_and_without_inference_mode():
    x, weight, bias = example()
    convolution._kept.memory = None
    with torch.inference_mode():
        first = conv3x3(x, weight, bias)
    with torch.no_grad():
        assert torch.equal(conv3x3(x, weight, bias), first)


@pytest.mark.parametrize("case", ["gradient", "layout", "channels", "double", "small", "empty", "kernel"])
def test_it_steps_aside(ran, case):
    shape = {"small": (1, 7, 20), "empty": (0, 12, 12)}.get(case, (1, 12, 12))
    x, weight, bias = example(24 if case == "channels" else 32, shape=shape)
    if case == "layout":
        x = x.contiguous()
    if case == "kernel":
        weight = torch.randn(48, 32, 5, 5)
    if case == "double":
        x, weight, bias = x.double(), weight.double(), bias.double()
    x.requires_grad_(case == "gradient")
    torch.testing.assert_close(conv3x3(x, weight, bias), F.conv2d(x, weight, bias, padding=1))
    assert not ran
