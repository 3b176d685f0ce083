import math

import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting.coupling import couple
from cxrsynth.inpainting.path import flow_loss, straight_path
from cxrsynth.inpainting.solver import integrate


def binary(*shape: int) -> torch.Tensor:
    return (torch.rand(*shape) < 0.4).float()


def test_coupling_is_k_x1_plus_r_z():
    x1, z, r = torch.randn(3, 1, 8, 8), torch.randn(3, 1, 8, 8), binary(3, 1, 8, 8)
    x0 = couple(x1, r, z)
    torch.testing.assert_close(x0, (1 - r) * x1 + r * z)
    assert torch.equal(x0[r == 0], x1[r == 0])


def test_path_runs_from_x0_to_x1_at_its_velocity():
    x0, x1 = torch.randn(2, 4, 1, 5, 5, dtype=torch.float64)
    at = [straight_path(x0, x1, torch.full((4,), t, dtype=torch.float64)) for t in (0.0, 0.3, 0.3 + 1e-6, 1.0)]
    torch.testing.assert_close(at[0].x, x0)
    torch.testing.assert_close(at[3].x, x1)
    torch.testing.assert_close((at[2].x - at[1].x) / 1e-6, at[1].target, atol=1e-6, rtol=1e-6)


def test_path_takes_one_time_an_image():
    x0, x1 = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    x = straight_path(x0, x1, torch.tensor([0.25, 0.75])).x
    assert x[0].unique().item() == 0.25
    assert x[1].unique().item() == 0.75


def test_kept_pixels_have_no_velocity():
    x1, r = torch.randn(2, 1, 8, 8), binary(2, 1, 8, 8)
    target = straight_path(couple(x1, r, torch.randn_like(x1)), x1, torch.rand(2)).target
    assert torch.equal(target[r == 0], torch.zeros_like(target[r == 0]))


def test_loss_is_the_mean_over_painted_pixels():
    v, u, r = torch.randn(2, 1, 6, 6), torch.randn(2, 1, 6, 6), binary(2, 1, 6, 6)
    errors = [
        (v[b, 0, i, j] - u[b, 0, i, j]) ** 2 for b in range(2) for i in range(6) for j in range(6) if r[b, 0, i, j] == 1
    ]
    torch.testing.assert_close(flow_loss(v, u, r), torch.stack(errors).mean())
    assert flow_loss(v, u, torch.zeros_like(r)) == 0


def test_a_balanced_loss_is_the_mean_over_images():
    v, u, r = torch.randn(3, 1, 6, 6), torch.randn(3, 1, 6, 6), binary(3, 1, 6, 6)
    r[0], r[1, ..., 0, 0] = 1, 1
    r[2] = 0  # nothing is painted: it does not count
    each = [((v[b] - u[b])[r[b] == 1] ** 2).mean() for b in range(2)]
    torch.testing.assert_close(flow_loss(v, u, r, balance=1.0), torch.stack(each).mean())
    weighted = (2 * each[0] + 3 * each[1]) / 2
    torch.testing.assert_close(flow_loss(v, u, r, 1.0, torch.tensor([2.0, 3, 5])), weighted)


# dx/dt = x cos(t) has the solution x0 exp(sin t).
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def error(solver: str, steps: int, warp: float = 1.0) -> float:
    x0 = torch.tensor([1.0, -2.0], dtype=torch.float64)
    end = integrate(lambda x, t: x * math.cos(t), x0, solver=solver, steps=steps, warp=warp)
    return (end - x0 * math.exp(math.sin(1.0))).abs().max().item()


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize("warp", [1.0, 2.0])
def test_solver_reaches_its_order(solver: str, warp: float):
    observed = math.log2(error(solver, 16, warp) / error(solver, 32, warp))
    assert observed == pytest.approx(ORDERS[solver], abs=0.25)


def test_warp_makes_the_last_steps_fine():
    times: list[float] = []
    integrate(lambda x, t: times.append(t) or x, torch.zeros(1), solver="euler", steps=4, warp=2.0)
    assert times == pytest.approx([0, 1 - 0.75**2, 1 - 0.5**2, 1 - 0.25**2])


@pytest.mark.parametrize("solver", [*ORDERS, "dopri5"])
def test_a_later_start_follows_the_rest_of_the_path(solver: str):
    x0 = torch.tensor([1.0, -2.0], dtype=torch.float64)
    end = integrate(lambda x, t: x * math.cos(t), x0, solver=solver, steps=400, start=0.4)
    torch.testing.assert_close(end, x0 * math.exp(math.sin(1.0) - math.sin(0.4)), atol=2e-3, rtol=0)
    assert torch.equal(integrate(lambda x, t: x, x0, solver=solver, steps=3, start=1.0), x0)


def test_dopri5_is_near_the_truth():
    pytest.importorskip("torchdiffeq")
    assert error("dopri5", 1) < 1e-4


def test_solver_counts_its_evaluations():
    for solver, evaluations in {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}.items():
        times: list[float] = []
        integrate(lambda x, t, times=times: times.append(t) or x, torch.zeros(1), solver=solver, steps=5)
        assert len(times) == 5 * evaluations
        assert min(times) == 0
        assert max(times) <= 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"solver": "leapfrog"}, "leapfrog"),
        ({"steps": 0}, "at least 1"),
        ({"warp": 0.5}, "warp"),
        ({"start": 2.0}, "start"),
    ],
)
def test_solver_refuses(options: dict, word: str):
    with pytest.raises(UserError, match=word):
        integrate(lambda x, t: x, torch.zeros(1), **options)


@pytest.mark.parametrize("grain", [0.03, 0.06, 0.12])
def test_the_usual_steps_keep_the_grain_of_the_image(grain: float):
    """For x1 ~ N(0, grain^2) the true velocity is linear in x: x(1) must have that spread, neither soft nor grainy."""

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        return x * (t * grain**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * grain**2)

    z = torch.randn(1000, dtype=torch.float64)
    usual = {"solver": "midpoint", "steps": 10, "warp": 2.0}  # as `inpaint` does it
    assert integrate(velocity, z, **usual).std() / z.std() == pytest.approx(grain, rel=0.05)
    assert integrate(velocity, z, solver="heun", steps=6).std() / z.std() > 1.1 * grain
