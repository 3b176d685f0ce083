import pytest
import torch

from cxrsynth import precision
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.dit import VelocityDiT
from cxrsynth.inpainting.flow_map import FlowMap


def answer(bf16: bool) -> torch.Tensor:
    torch.manual_seed(0)
    field = VelocityDiT(2, 32, 1, 2, 4, bf16=bf16).eval()
    for parameter in field.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    x = torch.randn(1, 1, 8, 8)
    return field(x, torch.tensor([0.5]), torch.ones_like(x), torch.zeros(1, 2, 8, 8), Condition.none(1, 2))


@pytest.mark.parametrize("machine", [False, True])
def test_half_precision_is_used_where_the_machine_has_it(machine, monkeypatch):
    plain = answer(False)
    monkeypatch.setattr(precision, "has_bf16", lambda kind: machine)
    half = answer(True)
    assert half.dtype == torch.float32
    assert torch.equal(half, plain) is not machine
    torch.testing.assert_close(half, plain, atol=0.1, rtol=0.1)


def test_a_student_of_half_precision_jumps(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda kind: True)
    torch.manual_seed(0)
    student = FlowMap(VelocityDiT(2, 32, 1, 2, 4, bf16=True)).eval()
    for parameter in student.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([0.5])
    given = torch.ones_like(x), torch.zeros(1, 2, 8, 8), Condition.none(1, 2)
    jumps = [student(x, t, *given, until) for until in (t, torch.ones(1))]
    assert jumps[0].dtype == torch.float32
    assert not torch.equal(*jumps)
    told = student.embed(given[2])
    assert told.vector.dtype == torch.bfloat16
    assert torch.equal(student(x, t, *given[:2], told, t), jumps[0])


def test_the_machine_is_asked():
    assert precision.has_bf16("cpu") == torch.ops.mkldnn._is_mkldnn_bf16_supported()
