import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cxrsynth.errors import UserError
from cxrsynth.registration import (
    compose,
    exponential,
    from_grid_sample,
    from_itk,
    from_rows_first,
    invert,
    jacobian_determinant,
    to_grid_sample,
    to_itk,
    to_rows_first,
)
from cxrsynth.registration.field import smallest_jacobian


def smooth_field(reach=1.5, height=48, width=64):
    return F.interpolate(torch.randn(1, 2, 4, 4, dtype=torch.float64), (height, width), mode="bicubic") * reach


def test_jacobian_of_a_linear_map():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    a = torch.tensor([[1.2, 0.3], [-0.1, 0.8]])  # p -> a p
    displacement = torch.stack([0.2 * x + 0.3 * y, -0.1 * x - 0.2 * y])[None]
    torch.testing.assert_close(jacobian_determinant(displacement), torch.linalg.det(a).expand(1, 6, 7))


def test_a_reflection_folds():
    x = torch.arange(8.0).expand(1, 8, 8)
    assert (jacobian_determinant(torch.stack([-2 * x, torch.zeros_like(x)], dim=1)) < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 2), (7, 5), (2, 33), (64, 9), (150, 70)])
def test_the_smallest_jacobian_is_that_of_all_pixels(shape, dtype):
    displacement = torch.randn(3, 2, *shape, dtype=dtype)
    torch.testing.assert_close(smallest_jacobian(displacement), jacobian_determinant(displacement).flatten(1).amin(1))
    displacement[1, 0, 1, 1] = torch.nan
    assert smallest_jacobian(displacement).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(2, 9, 9), (1, 1, 9, 9), (1, 3, 9, 9)])
def test_the_smallest_jacobian_of_another_shape_is_refused(shape):
    with pytest.raises(UserError, match=r"displacement is \(.*; it must be \[B, 2, H, W\]"):
        smallest_jacobian(torch.zeros(shape))


def test_inverse_composed_with_field_is_identity():
    field = smooth_field()
    rest = compose(field, invert(field))[..., 8:-8, 8:-8]
    assert rest.abs().max() < 1e-3
    assert field.abs().max() > 1


def test_exponentials_of_opposite_velocities_undo_each_other():
    velocity = smooth_field(reach=2.0, height=96, width=128)
    forth, back = exponential(velocity), exponential(-velocity)
    for rest in (compose(forth, back), compose(back, forth)):
        assert rest[..., 16:-16, 16:-16].abs().max() < 0.02
    assert forth.abs().max() > 3
    assert jacobian_determinant(forth).min() > 0


def test_exponential_of_a_linear_velocity_is_the_matrix_exponential():
    y, x = torch.meshgrid(*(torch.arange(-30.0, 31, dtype=torch.float64) for _ in range(2)), indexing="ij")
    a = torch.tensor([[0.1, -0.4], [0.5, -0.2]], dtype=torch.float64)  # turns and stretches about the centre
    points = torch.stack([x, y])
    expected = torch.einsum("ij,jhw->ihw", torch.linalg.matrix_exp(a) - torch.eye(2, dtype=torch.float64), points)
    found = exponential(torch.einsum("ij,jhw->ihw", a, points)[None], squarings=14)[0]
    torch.testing.assert_close(found[:, 15:-15, 15:-15], expected[:, 15:-15, 15:-15], rtol=0, atol=2e-3)


def test_compose_adds_translations():
    a, b = torch.ones(1, 2, 8, 8), torch.full((1, 2, 8, 8), -3.0)
    assert (compose(a, b) == -2).all()


def test_converters_return():
    field = smooth_field()
    for aligned in (False, True):
        torch.testing.assert_close(from_grid_sample(to_grid_sample(field, aligned), aligned), field)
    torch.testing.assert_close(from_rows_first(to_rows_first(field)), field)
    torch.testing.assert_close(from_itk(to_itk(field, (0.5, 0.25)), (0.5, 0.25)), field)


def test_itk_order_and_units():
    field = torch.zeros(1, 2, 3, 4)
    field[0, 0], field[0, 1] = 2, 5  # 2 pixels to the right, 5 down
    np.testing.assert_allclose(to_itk(field, (0.5, 0.2))[1, 1], [1.0, 1.0])
    assert torch.equal(to_rows_first(field)[0, 0], field[0, 1])
