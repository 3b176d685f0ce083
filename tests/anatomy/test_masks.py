import pytest
import torch

from cxrsynth.anatomy import chest_field, tidy
from cxrsynth.errors import UserError


def rectangle(rows: tuple[int, int], columns: tuple[int, int], size: int = 40) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


@pytest.fixture
def lungs() -> torch.Tensor:
    return rectangle((8, 30), (4, 14)) | rectangle((8, 28), (24, 34))


def test_two_lungs_stay_and_specks_and_holes_go(lungs):
    broken = lungs.clone()
    broken[..., 15:18, 8:10] = False  # a hole
    broken |= rectangle((35, 38), (10, 13))  # 9 pixels of 220
    assert tidy(broken, 2).equal(lungs)


def test_one_part_is_the_largest(lungs):
    assert tidy(lungs, 1).equal(rectangle((8, 30), (4, 14)))


def test_a_third_part_goes_even_when_it_is_large(lungs):
    assert tidy(lungs | rectangle((32, 40), (0, 15)), 2).equal(lungs)


def test_nothing_stays_nothing():
    empty = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    assert not tidy(empty, 2).any()
    assert not chest_field(empty).any()


def test_the_chest_field_holds_the_lungs_and_what_lies_between(lungs):
    field = chest_field(lungs, margin=0)
    assert field[lungs].all()
    assert field[0, 0, 9:28, 14:24].all()
    assert field.equal(field & rectangle((8, 30), (4, 34)))
    # convex: the middle of any two of its pixels belongs to it
    inside = field[0, 0].nonzero()
    first, second = inside[torch.randint(len(inside), (2, 2000))]
    even = ((first + second) % 2 == 0).all(1)
    middle = (first + second)[even] // 2
    assert field[0, 0][middle[:, 0], middle[:, 1]].all()


def test_the_margin_is_a_distance_in_shares_of_the_side():
    square = rectangle((10, 30), (10, 30))
    assert chest_field(square, margin=0).equal(square)
    assert chest_field(square, margin=0.1).equal(rectangle((6, 34), (6, 34)))


def test_each_mask_of_a_batch_has_its_own_field(lungs):
    other = rectangle((10, 30), (10, 30))
    both = chest_field(torch.cat([lungs, other]))
    assert both.equal(torch.cat([chest_field(lungs), chest_field(other)]))


@pytest.mark.parametrize("pixels", [[(3, 3)], [(3, 3), (3, 9)]])
def test_a_point_and_a_line_are_their_own_field(pixels):
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    for row, column in pixels:
        mask[0, 0, row, column] = True
    assert chest_field(mask).equal(mask)


def test_other_shapes_and_margins_are_refused(lungs):
    with pytest.raises(UserError, match="lungs has shape"):
        chest_field(lungs[0])
    with pytest.raises(UserError, match="margin"):
        chest_field(lungs, margin=-0.1)
