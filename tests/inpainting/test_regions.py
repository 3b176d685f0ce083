import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting.average import AverageMaps
from cxrsynth.inpainting.examples import draw_examples
from cxrsynth.inpainting.regions import (
    KINDS,
    blob_region,
    bounding_boxes,
    box_region,
    check_mix,
    draw_kinds,
    draw_regions,
)
from cxrsynth.inpainting.telling import Teller

TELLER = Teller(("a", "b", "c"))


def gaussian(batch: int, size: int = 32, x: float = 20.0, y: float = 9.0) -> torch.Tensor:
    grid = torch.arange(size) + 0.5
    one = torch.exp(-((grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2) / 18)
    return one.expand(batch, 1, size, size).clone()


def test_boxes_and_regions_agree():
    boxes = torch.tensor([[3.0, 5.0, 10.0, 20.0], [0.0, 0.0, 1.0, 1.0]])
    region = box_region(boxes, 24, 16)
    assert region.flatten(1).sum(1).tolist() == [7 * 15, 1]
    assert torch.equal(bounding_boxes(region), boxes)
    assert torch.equal(bounding_boxes(torch.zeros(1, 1, 5, 5)), torch.zeros(1, 4))


def test_blobs_fill_their_boxes_and_differ():
    boxes = torch.tensor([[6.0, 6.0, 26.0, 22.0]]).repeat(8, 1)
    blobs = blob_region(boxes, 32, 32)
    area = blobs.flatten(1).sum(1) / (20 * 16)
    assert ((area > 0.5) & (area < 1.2)).all()
    assert len({tuple(b.flatten().tolist()) for b in blobs}) == 8
    assert (blobs[:, 0, 14, 16] == 1).all()


def test_kinds_come_at_the_rates_of_the_mix():
    mix = {"attention": 0.5, "box": 0.3, "full": 0.2}
    rates = torch.bincount(draw_kinds(20_000, mix), minlength=len(KINDS)) / 20_000
    torch.testing.assert_close(rates, torch.tensor([mix.get(k, 0.0) for k in KINDS]), atol=0.015, rtol=0)


@pytest.mark.parametrize("mix", [{"oval": 1.0}, {"box": -1.0, "full": 2.0}, {"box": 0.0}, {}])
def test_bad_mixes_are_refused(mix: dict):
    with pytest.raises(UserError):
        check_mix(mix)


@pytest.mark.parametrize("kind", ["attention", "blob", "box"])
def test_diseased_images_are_painted_on_their_map(kind: str):
    maps = gaussian(64)
    region = draw_regions(maps, torch.ones(64, dtype=torch.bool), {kind: 1.0})
    covered = (maps * region).flatten(1).sum(1) / maps.flatten(1).sum(1)
    assert covered.min() > 0.35
    assert region.flatten(1).mean(1).max() < 0.5


def test_healthy_images_borrow_a_map():
    maps, diseased = gaussian(6), torch.tensor([True, False, False, True, False, False])
    maps[~diseased] = 0
    region = draw_regions(maps, diseased, {"attention": 1.0})
    centre = [bounding_boxes(region)[:, [i, i + 2]].mean(1) for i in (0, 1)]
    torch.testing.assert_close(torch.stack(centre, 1), torch.tensor([[20.0, 9.0]]).repeat(6, 1), atol=1.0, rtol=0)


def test_no_region_is_empty():
    generator = torch.Generator().manual_seed(0)
    mix = dict.fromkeys(KINDS, 1.0)
    for _ in range(20):
        maps = gaussian(8) * (torch.rand(8, 1, 1, 1, generator=generator) < 0.5)
        region = draw_regions(maps, torch.rand(8, generator=generator) < 0.5, mix, generator=generator)
        assert region.flatten(1).any(1).all()
        assert set(region.unique().tolist()) <= {0.0, 1.0}


def test_lungs_are_painted_where_they_are_known():
    lungs = torch.zeros(3, 1, 32, 32)
    lungs[:2, :, 4:20, 6:26] = 1
    region = draw_regions(gaussian(3), torch.tensor([True, False, True]), {"lungs": 1.0}, lungs=lungs)
    assert torch.equal(region[:2], lungs[:2])
    assert region[2].all()
    assert draw_regions(gaussian(2), torch.tensor([True, False]), {"lungs": 1.0}).all()


def test_average_places_are_painted_where_they_hold_the_lesion():
    maps, averages = gaussian(4), torch.zeros(4, 1, 8, 8)
    averages[:2, :, 1:4, 3:7] = 1  # about the lesion
    averages[2, :, 6:, :2] = 1  # elsewhere; of the last nothing is known
    diseased, mix = torch.ones(4, dtype=torch.bool), {"average": 1.0}
    region = draw_regions(maps, diseased, mix, (0.5, 0.5), averages=averages)
    shaped = draw_regions(maps, diseased, {"attention": 1.0}, (0.5, 0.5))
    assert torch.equal(region[2:], shaped[2:])
    assert (region[:2].flatten(1).sum(1) > shaped[:2].flatten(1).sum(1)).all()
    healthy = draw_regions(maps * diseased.view(-1, 1, 1, 1), diseased & (torch.arange(4) != 1), mix, averages=averages)
    assert healthy[1].any()
    assert torch.equal(draw_regions(maps, diseased, mix, (0.5, 0.5)), shaped)


def test_average_maps_of_a_batch():
    known = AverageMaps(3)
    known.add(torch.rand(5, 1, 64, 64), torch.tensor([0, 0, 2, -1, 0]))
    found = known.of_batch(torch.tensor([2, -1, 1, 0]))
    for row, finding in ((0, 2), (3, 0)):
        torch.testing.assert_close(found[row, 0], known.of(finding))
    assert not found[1:3].any()


def test_examples_are_reproducible_and_in_range():
    batch = {
        "image": torch.rand(6, 1, 32, 32),
        "target": torch.eye(3).repeat(2, 1),
        "map": gaussian(6),
        "finding": torch.tensor([0, 1, 2, 0, 1, 2]),
    }
    options = {"size": 16, "regions": {"attention": 1.0, "blob": 1.0}, "share": (0.5, 0.9), "context": 0.25}
    draws = [
        draw_examples(batch, TELLER, **options, minimum=0.5, jitter=0.2, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert torch.equal(draws[0].image, draws[1].image)
    assert torch.equal(draws[0].region, draws[1].region)
    assert draws[0].image.shape == draws[0].region.shape == (6, 1, 16, 16)
    assert draws[0].coordinates.shape == (6, 2, 16, 16)
    assert draws[0].image.min() >= -1
    assert draws[0].region.flatten(1).any(1).all()


def test_a_batch_without_maps_is_refused():
    options = {"size": 8, "regions": {"full": 1.0}, "share": (0.5, 0.9), "context": 0.25, "minimum": 0.5}
    with pytest.raises(UserError, match="maps"):
        draw_examples({"image": torch.rand(1, 1, 8, 8), "finding": torch.tensor([-1])}, TELLER, **options)
