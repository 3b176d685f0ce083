import sys
import types

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from cxrsynth.ops import build_info, extension
from cxrsynth.ops.extension import called_plainly


@pytest.fixture(autouse=True)
def forget():
    """The loaded module is remembered; these tests look again."""
    extension.kernels.cache_clear()
    yield
    extension.kernels.cache_clear()


def test_build_info_names_what_runs():
    info = build_info()
    assert info["cpu_path"] in info["cpu_paths"]
    assert info["threads"] >= 1


def test_a_missing_extension_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "cxrsynth.ops._kernels", None)
    monkeypatch.delattr("cxrsynth.ops._kernels", raising=False)
    with pytest.raises(ImportError, match=r"missing or cannot be loaded .* run `pip install .`"):
        extension.kernels()


def test_a_stale_extension_is_one_sentence(monkeypatch):
    monkeypatch.setattr("cxrsynth.ops._kernels", types.SimpleNamespace(interface=-1))
    with pytest.raises(ImportError, match=r"another version .* run `pip install .`"):
        extension.kernels()


def test_only_a_plain_call_leaves_the_operator_out():
    image = torch.rand(2, 1, 4, 4)
    wanted = image.clone().requires_grad_()
    assert called_plainly(image, None)
    assert not called_plainly(None, wanted)
    with torch.no_grad():
        assert called_plainly(wanted)
    with torch.inference_mode():
        assert called_plainly(image)
    assert not called_plainly(image, image.to("meta"))
    assert not called_plainly(torch.nn.Parameter(image, requires_grad=False))
    with FlopCounterMode(display=False):
        assert not called_plainly(image)
    with forward_ad.dual_level():
        assert not called_plainly(forward_ad.make_dual(image, image))


@pytest.mark.parametrize("transform", ["vmap", "grad", "jit", "compile"])
def test_transforms_meet_the_operator(transform):
    seen = []

    def function(x):
        seen.append(called_plainly(x))
        return x.sum()

    image = torch.rand(2, 3)
    if transform == "jit":
        torch.jit.trace(function, (image,), check_trace=False)
    elif transform == "compile":
        seen.append(torch.compile(called_plainly, backend="eager", fullgraph=True)(image))
    else:
        getattr(torch.func, transform)(function)(image)
    assert seen == [False]


def test_a_gpu_without_kernels_for_it_is_known(monkeypatch):
    """norm_silu then computes with torch's layers, as it does for other devices."""
    cpu, gpu, other = torch.device("cpu"), torch.device("cuda", 1), torch.device("meta")
    for built, expected in (("", [True, False, False]), ("90", [True, True, False])):
        monkeypatch.setattr(extension, "kernels", lambda built=built: types.SimpleNamespace(cuda_architectures=built))
        assert [extension.has_kernels(device) for device in (cpu, gpu, other)] == expected
