"""bfloat16 is used where it is faster, and float32 elsewhere."""

import pytest
import torch

from cxrsynth import precision
from cxrsynth.cli import main
from cxrsynth.precision import autocast, trainer_precision


@pytest.fixture(params=[False, True], ids=["without", "with"])
def hardware(request, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda kind: request.param)
    return request.param


def test_bfloat16_only_where_the_device_has_it(hardware):
    assert trainer_precision("bf16-mixed", "cpu") == ("bf16-mixed" if hardware else "32-true")
    assert trainer_precision("32-true", "cpu") == "32-true"
    assert trainer_precision(None, "cpu") is None
    with autocast(torch.device("cpu"), bf16=True):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if hardware else torch.float32)
    with autocast(torch.device("cpu"), bf16=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_the_command_line_asks_for_what_the_device_has(hardware, monkeypatch, tmp_path):
    import lightning as L

    seen = []
    monkeypatch.setattr(L.Trainer, "fit", lambda trainer, *_, **__: seen.append(trainer.precision))
    model = "cxrsynth.classification.task.ClassificationTask"
    trainer = ["--trainer.precision", "bf16-mixed", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    data = ["--data.manifest", str(tmp_path / "none.csv"), "--data.findings", "[Effusion]"]
    main(["fit", "--model", model, "--model.findings", "[Effusion]", *data, *trainer])
    assert seen == ["bf16-mixed" if hardware else "32-true"]
