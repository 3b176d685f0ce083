import pytest
import torch

from cxrsynth.encoder.probe import linear_scores, neighbour_scores, summary_vector


def test_neighbours_vote_and_unknown_ones_abstain():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    target = torch.tensor([[1.0], [torch.nan], [1.0], [0.0], [0.0], [0.0]])
    scores = neighbour_scores(bank, target, torch.tensor([[1.0, 0.05], [0.05, 1.0]]), neighbours=3)[:, 0]
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.0]))  # of the first one's neighbours one is unknown


def test_nearer_neighbours_weigh_more():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    target = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    near, nearer = neighbour_scores(bank, target, torch.tensor([[1.0, 0.9], [1.0, 0.1]]), neighbours=2)[:, 0]
    assert 0.5 < near < nearer < 1


@pytest.mark.parametrize("probe", [neighbour_scores, linear_scores])
def test_chance_and_signal(probe):
    bank, asked = torch.randn(400, 8), torch.randn(300, 8)
    noise = (torch.rand(400, 1) > 0.5).float()
    assert abs(probe(bank, noise, asked).mean() - 0.5) < 0.1
    truth = (asked[:, 0] + asked[:, 1] > 0).float()
    scores = probe(bank, (bank[:, :1] + bank[:, 1:2] > 0).float(), asked)[:, 0]
    assert scores[truth == 1].mean() > scores[truth == 0].mean() + 0.2


def test_linear_probe_leaves_unknown_targets_out():
    bank, asked = torch.randn(100, 4), torch.randn(5, 4)
    target = (bank[:, :1] > 0).float().repeat(1, 3)
    target[50:, 1] = torch.nan
    target[:, 2] = 1
    scores = linear_scores(bank, target, asked)
    torch.testing.assert_close(scores[:, 1], linear_scores(bank[:50], target[:50, 1:2], asked)[:, 0])
    assert scores[:, 2].isnan().all()


def test_summary_is_cls_and_spread_of_the_patches_of_the_last_block():
    patches, cls = torch.rand(2, 5, 3), torch.rand(2, 3)
    vector = summary_vector([(torch.rand(2, 5, 3), torch.rand(2, 3)), (patches, cls)])
    spread = (patches - patches.mean(1, keepdim=True)).square().mean(1).sqrt()
    torch.testing.assert_close(vector, torch.cat([cls, spread], 1))
    one = summary_vector([(patches[:, :1], cls)])
    assert torch.isfinite(one).all()
