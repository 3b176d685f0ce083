import torch

from cxrsynth.encoder.probe import neighbour_scores


def test_neighbours_vote_and_unknown_ones_abstain():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.02], [0.0, 1.0], [0.01, 1.0], [0.02, 1.0]])
    target = torch.tensor([[0.0], [1.0], [torch.nan], [0.0], [0.0], [0.0]])
    scores = neighbour_scores(features, target, neighbours=2)[:, 0]
    torch.testing.assert_close(scores[0], torch.tensor(1.0))  # of its two neighbours one is positive, one unknown
    assert scores[1] == 0  # itself does not vote
    assert scores[3:].sum() == 0


def test_chance_is_one_half():
    scores = neighbour_scores(torch.randn(400, 8), (torch.rand(400, 3) > 0.5).float())
    assert abs(scores.mean() - 0.5) < 0.05
