import torch

from cxrsynth.inpainting.average import SIDE, AverageMaps


def test_mean_of_each_findings_maps_with_equal_weight_for_each_lesion():
    maps = torch.zeros(4, 1, 64, 64)
    maps[0, :, :8, :8] = 1  # finding 1, small
    maps[1, :, 32:, :] = 0.5  # finding 1, large and faint
    maps[2] = 1  # a healthy image's: nobody's
    average = AverageMaps(3)
    average.add(maps, torch.tensor([1, 1, -1, 2]))  # the last one is empty
    assert average.of(0) is None
    assert average.of(2) is None
    mean = average.of(1)
    torch.testing.assert_close(mean.sum(), torch.tensor(1.0))
    torch.testing.assert_close(mean[:4, :4].sum(), torch.tensor(0.5))
    torch.testing.assert_close(mean[SIDE // 2 :].sum(), torch.tensor(0.5))


def test_batches_and_a_break_between_them_do_not_matter():
    maps, finding = torch.rand(6, 1, 40, 40), torch.tensor([0, 1, 0, -1, 1, 1])
    whole, first, second = AverageMaps(2), AverageMaps(2), AverageMaps(2)
    whole.add(maps, finding)
    first.add(maps[:2], finding[:2])
    second.load(first.state())
    second.add(maps[2:], finding[2:])
    torch.testing.assert_close(second.state(), whole.state())
