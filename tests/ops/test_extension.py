import sys
import types

import pytest

from cxrsynth.ops import build_info, extension


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
