import math

import torch
from torch.nn import functional as F

from cxrsynth.encoder.heads import ProjectionHead
from cxrsynth.encoder.losses import Centering, dino_loss, ibot_loss, koleo_loss, sinkhorn_knopp


def test_sinkhorn_uses_prototypes_equally():
    q = sinkhorn_knopp(torch.randn(12, 5) * 0.3, temperature=0.07, iterations=200)
    torch.testing.assert_close(q.sum(1), torch.ones(12))
    torch.testing.assert_close(q.sum(0), torch.full((5,), 12 / 5), rtol=1e-3, atol=0)


def test_sinkhorn_is_the_published_alternation():
    logits, temperature = torch.randn(6, 4), 0.1
    q = torch.exp(logits.double() / temperature).T  # prototypes x samples, as in the published code
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(dim=1, keepdim=True) * 4
        q /= q.sum(dim=0, keepdim=True) * 6
    torch.testing.assert_close(sinkhorn_knopp(logits, temperature).double(), (q * 6).T, rtol=1e-5, atol=1e-7)


def test_sinkhorn_survives_large_logits_and_no_rows():
    assert torch.isfinite(sinkhorn_knopp(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), 0.04)).all()
    assert sinkhorn_knopp(torch.zeros(0, 5), 0.04).shape == (0, 5)


def test_centre_is_a_moving_mean_used_one_step_late():
    centering, logits = Centering(3, momentum=0.9), torch.randn(4, 3)
    torch.testing.assert_close(centering(logits, 0.5), (logits / 0.5).softmax(-1))
    torch.testing.assert_close(centering.center, 0.1 * logits.mean(0, keepdim=True))
    torch.testing.assert_close(centering(logits, 0.5), ((logits - 0.1 * logits.mean(0)) / 0.5).softmax(-1))


def test_dino_loss_is_the_mean_over_unlike_pairs():
    student = [torch.randn(3, 7) for _ in range(5)]
    teacher = [torch.randn(3, 7).softmax(-1) for _ in range(2)]
    total, pairs = 0.0, 0
    for i in range(2):
        for j in range(5):
            if i == j:
                continue
            pairs += 1
            for b in range(3):
                weights = [math.exp(v / 0.1) for v in student[j][b].tolist()]
                total += -sum(
                    t * math.log(w / sum(weights)) for t, w in zip(teacher[i][b].tolist(), weights, strict=True)
                )
    assert pairs == 8
    assert abs(dino_loss(student, teacher).item() - total / pairs / 3) < 1e-4


def test_ibot_loss_weighs_images_not_patches():
    masks = torch.tensor([[True, True, True, False], [False, True, False, False], [False] * 4])
    student, teacher = torch.randn(4, 6), torch.randn(4, 6).softmax(-1)
    each = -(teacher * F.log_softmax(student / 0.1, -1)).sum(-1)
    expected = (each[:3].mean() + each[3]) / 3  # the unmasked image counts in the denominator
    torch.testing.assert_close(ibot_loss(student, teacher, masks), expected)
    assert ibot_loss(student[:0], teacher[:0], torch.zeros(3, 4, dtype=torch.bool)) == 0


def test_batch_norm_brings_out_what_differs_between_nearly_equal_tokens():
    torch.manual_seed(0)
    tokens = 1 + 0.01 * torch.randn(32, 16)
    plain, normed = (ProjectionHead(16, 64, 32, 16, batch_norm=norm) for norm in (False, True))
    targets = [sinkhorn_knopp(head(tokens).detach(), temperature=0.04) for head in (plain, normed)]
    entropies = [-(q * q.clamp_min(1e-12).log()).sum(1).mean() / math.log(64) for q in targets]
    assert entropies[0] > 0.99  # every target is uniform: nothing to learn from
    assert entropies[1] < 0.9
    assert not list(normed.buffers())  # a teacher that is never in training mode has the same statistics
    torch.testing.assert_close(normed.eval()(tokens), normed.train()(tokens))


def test_koleo_is_the_log_distance_to_the_nearest_neighbour():
    features = torch.randn(6, 4, dtype=torch.float64).float().requires_grad_()
    unit = F.normalize(features, dim=-1)
    expected = 0.0
    for i in range(6):
        expected -= math.log(min((unit[i] - unit[j]).norm().item() for j in range(6) if j != i)) / 6
    loss = koleo_loss(features)
    assert abs(loss.item() - expected) < 1e-5
    (gradient,) = torch.autograd.grad(loss, features)
    with torch.no_grad():
        assert koleo_loss(features - 0.01 * gradient) < loss  # a step down spreads the features
