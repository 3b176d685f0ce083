import pytest
import torch

from cxrsynth.ops.extension import kernels


@pytest.fixture
def set_path():
    """`set_path` of the kernels; afterwards the path is as before."""
    best = kernels().current_path()
    yield kernels().set_path
    kernels().set_path(best)


@pytest.fixture(params=kernels().usable_paths())
def path(request, set_path):
    """Each instruction set of this machine in turn."""
    set_path(request.param)


@pytest.fixture
def threads():
    """`torch.set_num_threads`; afterwards their number is as before."""
    count = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(count)
