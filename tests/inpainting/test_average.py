import pytest
import torch

from cxrsynth.inpainting.average import SIDE, AverageMaps, usual_place


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


def test_areas_are_those_of_masks_and_none_where_they_were_never_taken():
    masks = torch.zeros(3, 1, 50, 40)
    masks[0, :, 10:20, 10:20] = 1
    masks[1, :, 30:40, 10:30] = 0.3  # a map's height does not count
    average = AverageMaps(2)
    average.add(masks, torch.tensor([0, 0, -1]))
    assert average.area(0) == pytest.approx((100 + 200) / 2 / 2000)
    assert average.area(1) is None
    old = average.state()
    del old["areas"], old["sized"]  # a checkpoint of before
    average.load(old)
    assert average.area(0) is None
    torch.testing.assert_close(average.of(0).sum(), torch.tensor(1.0))
    average.add(masks[:1], torch.tensor([0]))
    assert average.area(0) == pytest.approx(100 / 2000)


def test_a_usual_place_has_a_lesions_size_and_lies_where_lesions_lie():
    average = torch.zeros(64, 64)
    average[40:56, 6:22] = average[40:56, 42:58] = 1  # both bases of the lungs
    sides = set()
    for seed in range(20):
        place = usual_place(average, 0.03, torch.Generator().manual_seed(seed))
        assert place.sum() == round(0.03 * 64**2)
        assert (average[place > 0] > 0).all()
        left, right = place[:, :32].sum(), place[:, 32:].sum()
        assert min(left, right) == 0  # one lesion, not half of one on each side
        sides.add(bool(left))
    assert sides == {True, False}
    again = [usual_place(average, 0.03, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)
    assert usual_place(average, 0.9, torch.Generator().manual_seed(0)).sum() == 512  # no more than the average map
    assert usual_place(average, 1e-9, torch.Generator().manual_seed(0)).sum() == 1
