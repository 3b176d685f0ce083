"""The losses against another library's: needs `pip install --no-deps lightly` (its torchvision stays away)."""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from cxrsynth.encoder.losses import Centering, dino_loss, ibot_loss, koleo_loss, sinkhorn_knopp

LIGHTLY = importlib.util.find_spec("lightly")
pytestmark = pytest.mark.skipif(LIGHTLY is None, reason="needs lightly")


@pytest.fixture
def lightly(monkeypatch):
    """A way to lightly's modules of losses past its packages' own files, which import torchvision."""
    for name in ("lightly", "lightly.loss", "lightly.models", "lightly.models.modules"):
        package = ModuleType(name)
        package.__path__ = [f"{LIGHTLY.submodule_search_locations[0]}/{'/'.join(name.split('.')[1:])}"]
        monkeypatch.setitem(sys.modules, name, package)
    yield lambda name: importlib.import_module(f"lightly.loss.{name}")
    for name in [name for name in sys.modules if name.startswith("lightly.")]:
        del sys.modules[name]


def test_dino_loss_and_its_centre(lightly):
    theirs, centering = lightly("dino_loss").DINOLoss(7, teacher_temp=0.05), Centering(7)
    for _ in range(3):  # the centre moves along
        student, teacher = [torch.randn(4, 7) for _ in range(5)], [torch.randn(4, 7) for _ in range(2)]
        targets = centering(torch.cat(teacher), 0.05).chunk(2)
        torch.testing.assert_close(dino_loss(student, targets), theirs(teacher, student))


def test_ibot_loss_and_its_centre(lightly):
    theirs, centering = lightly("ibot_loss").IBOTPatchLoss(6, teacher_temp=0.05), Centering(6)
    for _ in range(3):
        masks = torch.rand(3, 2, 4) < 0.4
        student, teacher = (torch.randn(int(masks.sum()), 6) for _ in range(2))
        ours = ibot_loss(student, centering(teacher, 0.05), masks.flatten(1))
        torch.testing.assert_close(ours, theirs(teacher, student, masks))


def test_koleo_loss(lightly):
    features = torch.randn(16, 5)
    torch.testing.assert_close(koleo_loss(features), lightly("koleo_loss").KoLeoLoss()(features))


def test_sinkhorn(lightly):
    logits = torch.randn(12, 5)
    theirs = lightly("swav_loss").sinkhorn(logits, iterations=3, epsilon=0.1)
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.1), theirs)
