"""The CUDA kernels against the CPU's, where there is a GPU. Without one, tests/csrc runs their source on the CPU."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from cxrsynth.ops import build_info, demons, warp
from cxrsynth.ops.norm import norm_silu

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available() or not build_info()["cuda"], reason="needs a GPU and a CUDA build"
    ),
]


def images(batch=3, height=67, width=90, dtype=torch.float64):
    moving = F.interpolate(torch.rand(batch, 1, 12, 12, dtype=dtype), (height, width), mode="bicubic")
    return moving, warp(
        moving, F.interpolate(torch.randn(batch, 2, 4, 4, dtype=dtype), (height, width), mode="bicubic")
    )


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_warp_and_gradients(mode):
    image = torch.rand(2, 3, 33, 47, dtype=torch.float64, requires_grad=True)
    field = (torch.randn(2, 2, 33, 47, dtype=torch.float64) * 3).requires_grad_()
    weight = torch.randn(2, 3, 33, 47, dtype=torch.float64)
    results = []
    for device in ("cpu", "cuda"):
        out = warp(image.to(device), field.to(device), mode)
        results.append((out, *torch.autograd.grad((out * weight.to(device)).sum(), (image, field))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("force", "update", "kernel", "fluid"),
    list(
        itertools.product(
            ["two_force", "esm", "thirion"], ["additive", "diffeomorphic"], ["gaussian", "itk"], [0.0, 1.0]
        )
    ),
)
def test_demons(force, update, kernel, fluid):
    moving, fixed = images()
    options = {"force": force, "update": update, "kernel": kernel, "sigma_fluid": fluid, "sigma_diffusion": 1.0}
    options |= {"iterations": (8, 6, 4), "mask": (torch.rand_like(fixed) > 0.2).double()}
    on_gpu = demons(moving.cuda(), fixed.cuda(), **{**options, "mask": options["mask"].cuda()})
    for ours, theirs in zip(demons(moving, fixed, **options), on_gpu, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, rtol=0, atol=1e-7)


def test_float32_and_tolerance_and_batch():
    moving, fixed = (image.float() for image in images())
    options = {"force": "esm", "sigma_diffusion": 1.0, "iterations": (8, 6, 4)}
    single, double = (
        demons(moving.cuda().to(t), fixed.cuda().to(t), **options)[0] for t in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-2)
    alone = demons(moving[1:2].cuda(), fixed[1:2].cuda(), **options)
    for a, b in zip(alone, demons(moving.cuda(), fixed.cuda(), **options), strict=True):
        assert torch.equal(a, b[1:2])
    stopped = demons(moving.cuda(), fixed.cuda(), tol=0.3, **options), demons(moving, fixed, tol=0.3, **options)
    assert torch.equal(stopped[0][1].isnan().cpu(), stopped[1][1].isnan())


def test_the_current_stream_is_used():
    moving, fixed = (image.float().cuda() for image in images())
    expected = demons(moving, fixed)[0]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # the images change only after this, on this stream
        late = moving.clone()
        result = demons(late, fixed)[0]
    stream.synchronize()
    assert torch.equal(result, expected)


def test_a_graph_captures_a_registration():
    moving, fixed = (image.float().cuda() for image in images())
    expected = demons(moving, fixed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # fails at any allocation of CUDA's own and at any wait
        captured = demons(moving, fixed)
    graph.replay()
    torch.cuda.synchronize()
    for found, wanted in zip(captured, expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("size", [40, 64, 65, 200])  # a block holds 64 x 64 pixels
def test_small_levels_and_tiles_agree_with_the_cpu(size):
    moving, fixed = images(2, size, size)
    for sigma in (0.0, 1.0, 3.0, 5.0):
        options = {"iterations": (6,), "shrink": (1,), "force": "esm", "sigma_diffusion": sigma}
        on_gpu = demons(moving.cuda(), fixed.cuda(), **options)
        for ours, theirs in zip(demons(moving, fixed, **options), on_gpu, strict=True):
            torch.testing.assert_close(theirs.cpu(), ours, rtol=0, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [4, 13, 24, 48, 200])  # an image of one block, and of several
@pytest.mark.parametrize(("channels", "groups"), [(48, 24), (64, 8), (96, 8), (512, 32), (36, 4)])
def test_norm_silu(size, channels, groups, dtype):
    x = (torch.randn(3, channels, size, size) * 2 + 3).to("cuda", dtype).contiguous(memory_format=torch.channels_last)
    weight, bias, shift = (torch.randn(*shape, device="cuda") for shape in ((channels,), (channels,), (3, channels)))
    for added in (None, shift):
        moved = x.double() if added is None else x.double() + shift[:, :, None, None]
        exact = F.silu(F.group_norm(moved, groups, weight.double(), bias.double(), 1e-5))
        found = norm_silu(x, groups, weight, bias, 1e-5, added)
        assert found.is_contiguous(memory_format=torch.channels_last)
        limits = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2**-18, "rtol": 2**-8}
        torch.testing.assert_close(found.double(), exact, **limits)
        assert torch.equal(
            found[1:2], norm_silu(x[1:2], groups, weight, bias, 1e-5, None if added is None else added[1:2])
        )
