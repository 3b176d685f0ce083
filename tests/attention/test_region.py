import pytest
import torch

from cxrsynth.attention.region import DILATE, MASS, MIN_COMPONENT, region_from_map, smallest_area
from cxrsynth.errors import UserError


def test_smallest_area_holds_the_mass_and_not_a_pixel_more():
    map = torch.rand(3, 1, 9, 11)
    for mass in (0.2, 0.5, 1.0):
        region = smallest_area(map, mass)
        for one, chosen in zip(map, region, strict=True):
            held = (one * chosen).sum() / one.sum()
            weakest = one[chosen > 0].min() / one.sum()
            assert held >= mass - 1e-6
            assert held - weakest < mass  # without its weakest pixel it would hold too little
            assert one[chosen == 0].numel() == 0 or one[chosen == 0].max() <= one[chosen > 0].min()


def test_ties_are_broken_in_reading_order():
    region = smallest_area(torch.ones(1, 1, 2, 4), 0.5)
    assert region.flatten().tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def blobs() -> torch.Tensor:
    map = torch.zeros(1, 1, 32, 32)
    map[..., 4:12, 4:12] = 1.0
    map[..., 20:22, 20:22] = 1.0  # a speck: a sixteenth of the large part
    return map


def test_specks_are_dropped():
    kept = region_from_map(blobs(), mass=1.0, min_component=0.2, dilate=0)
    assert kept.sum() == 64
    assert region_from_map(blobs(), mass=1.0, min_component=0.01, dilate=0).sum() == 68


def test_growth_is_a_disc():
    map = torch.zeros(1, 1, 15, 15)
    map[..., 7, 7] = 1
    grown = region_from_map(map, dilate=3)[0, 0]
    y, x = torch.meshgrid(torch.arange(15) - 7, torch.arange(15) - 7, indexing="ij")
    assert torch.equal(grown > 0, x**2 + y**2 <= 9)


def test_without_settings_a_region_is_the_one_that_is_painted():
    map = torch.rand(1, 1, 32, 32) ** 4
    assert torch.equal(region_from_map(map), region_from_map(map, MASS, MIN_COMPONENT, DILATE))
    assert not torch.equal(region_from_map(map), region_from_map(map, 0.5, 0.2))


def test_limit_bounds_mass_and_growth():
    limit = torch.zeros(1, 1, 32, 32)
    limit[..., :8, :] = 1
    region = region_from_map(blobs(), mass=1.0, dilate=2, limit=limit)
    assert region[..., 8:, :].sum() == 0
    assert region[..., 4:8, 4:12].all()


def test_batch_does_not_matter_and_empty_stays_empty():
    maps = torch.cat([torch.rand(2, 1, 16, 16), torch.zeros(1, 1, 16, 16)])
    regions = region_from_map(maps)
    for index in range(3):
        assert torch.equal(regions[index], region_from_map(maps[index : index + 1])[0])
    assert regions[2].sum() == 0
    assert set(regions.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mass": 0.0}, "mass is 0.0"),
        ({"min_component": 2.0}, "min_component is 2.0"),
        ({"dilate": -1}, "dilate is -1"),
        ({"map": torch.rand(4, 4)}, "map has shape"),
        ({"map": -torch.ones(1, 1, 4, 4)}, "0 or more"),
    ],
)
def test_mistakes_are_named(arguments, match):
    with pytest.raises(UserError, match=match):
        region_from_map(**{"map": torch.ones(1, 1, 4, 4)} | arguments)
