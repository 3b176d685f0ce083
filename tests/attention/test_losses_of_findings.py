import math

import pytest
import torch

from cxrsynth.attention.losses import asymmetric_loss
from cxrsynth.data.targets import FindingMetrics, binary_cross_entropy

NAN = float("nan")


def test_binary_cross_entropy_leaves_unknown_targets_out():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]], requires_grad=True)
    target = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    p = logits.detach().sigmoid()
    expected = -(math.log(p[0, 0]) + math.log(1 - p[1, 0]) + math.log(p[1, 1])) / 3
    loss = binary_cross_entropy(logits, target)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert logits.grad[0, 1] == 0
    assert torch.isfinite(logits.grad).all()
    assert binary_cross_entropy(logits, torch.full((2, 2), NAN)) == 0


def test_asymmetric_loss_is_its_formula():
    logits = torch.tensor([[0.3, -1.0, -5.0]])
    target = torch.tensor([[1.0, 0.0, 0.0]])
    p = logits.sigmoid()[0].tolist()
    shifted = [max(v - 0.05, 0) for v in p]
    expected = -(math.log(p[0]) * (1 - p[0]) + shifted[1] ** 4 * math.log(1 - shifted[1])) / 3
    assert shifted[2] == 0
    assert asymmetric_loss(logits, target, gamma_positive=1).item() == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(asymmetric_loss(torch.full((1, 3), 40.0), target))


def test_metrics_count_pairs_and_skip_what_is_undefined():
    metrics = FindingMetrics(3)
    logits = torch.randn(40, 3)
    target = (torch.rand(40, 3) > 0.5).float()
    target[torch.rand(40) > 0.7, 0] = NAN
    target[:, 2] = 0
    for part in range(0, 40, 13):
        metrics.update(logits[part : part + 13], target[part : part + 13])
    found = metrics.compute()
    for column in (0, 1):
        known = ~target[:, column].isnan()
        s, t = logits[known, column], target[known, column]
        wins = (s[t == 1][:, None] > s[t == 0][None]).float().mean()
        assert found["auroc"][column].item() == pytest.approx(wins.item(), abs=1e-6)
    assert found["auroc"][2].isnan()
    assert found["auprc"][2].isnan()
