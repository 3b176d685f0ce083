"""Integration of `dx/dt = v(x, t)` from t = 0 to t = 1."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from cxrsynth.errors import UserError

Velocity = Callable[..., Tensor]
Solver = Literal["euler", "midpoint", "heun", "rk4", "dopri5", "jump"]


def _euler(v: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    return x + h * v(x, t)


def _midpoint(v: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    return x + h * v(x + h / 2 * v(x, t), t + h / 2)


def _heun(v: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    k1 = v(x, t)
    return x + h / 2 * (k1 + v(x + h * k1, t + h))


def _rk4(v: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    k1 = v(x, t)
    k2 = v(x + h / 2 * k1, t + h / 2)
    k3 = v(x + h / 2 * k2, t + h / 2)
    k4 = v(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _jump(v: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    return x + h * v(x, t, t + h)


_STEPS = {"euler": _euler, "midpoint": _midpoint, "heun": _heun, "rk4": _rk4, "jump": _jump}


def integrate(
    velocity: Velocity,
    x0: Tensor,
    *,
    solver: Solver = "heun",
    steps: int = 20,
    warp: float = 1.0,
    start: float = 0.0,
) -> Tensor:
    """Follow the velocity from `x0` at t = `start` to t = 1.

    Args:
        velocity: `v(x, t)` for `x` shaped like `x0` and a float t in [0, 1]; for `jump` the mean velocity
            `u(x, t, end of the step)`.
        x0: Start, any shape.
        solver: `euler` (order 1), `midpoint` and `heun` (order 2), `rk4` (order 4), `dopri5` (adaptive, needs the
            package torchdiffeq; `steps` and `warp` are not used), or `jump` for a field that knows its steps' ends
            (see `FlowMap`).
        steps: Number of steps, at least 1.
        warp: The grid is `t = 1 - (1 - start) * (1 - i / steps) ** warp`: 1 = equal steps, above 1 = finer towards
            t = 1, where the velocity changes fastest (there it tells the last of the noise from the image).
        start: Time of `x0`, in [0, 1].

    Returns:
        x at t = 1, shaped like `x0`.

    Raises:
        UserError: Unknown solver, fewer than one step, or `dopri5` without torchdiffeq.
    """
    if solver not in get_args(Solver):
        raise UserError(f"solver is {solver!r}; choose one of {', '.join(get_args(Solver))}")
    if steps < 1:
        raise UserError(f"steps is {steps}; give at least 1")
    if warp < 1:
        raise UserError(f"warp is {warp}; give 1 for equal steps or more for finer ones towards the end")
    if not 0 <= start <= 1:
        raise UserError(f"start is {start}; give a time in [0, 1]")
    if solver == "dopri5":
        return _dopri5(velocity, x0, start)
    x = x0
    for _, x in follow(velocity, x0, solver=solver, steps=steps, warp=warp, start=start):  # noqa: B007
        pass
    return x


def follow(
    velocity: Velocity, x0: Tensor, *, solver: Solver, steps: int, warp: float, start: float
) -> Iterator[tuple[float, Tensor]]:
    """Time and state after each step of `integrate`, for solvers with steps."""
    grid = [1 - (1 - start) * (1 - i / steps) ** warp for i in range(steps + 1)]
    step, x = _STEPS[solver], x0
    for now, end in pairwise(grid):
        x = step(velocity, x, now, end - now)
        yield end, x


def _dopri5(velocity: Velocity, x0: Tensor, start: float) -> Tensor:
    if start == 1:
        return x0
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise UserError("solver 'dopri5' needs torchdiffeq; pip install torchdiffeq or choose rk4") from error
    times = torch.tensor([start, 1.0], dtype=x0.dtype, device=x0.device)
    return odeint(lambda t, x: velocity(x, float(t)), x0, times, rtol=1e-5, atol=1e-5, method="dopri5")[-1]
