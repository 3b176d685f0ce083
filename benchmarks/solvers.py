"""Do the solvers agree on a trained inpainter? Error against dopri5 by steps, and the order that shows in it.

python benchmarks/solvers.py phantom > benchmarks/results/solvers.txt

Films and regions are those of guidance.py; one finding each, the inpainter's own guidance; the network computes in
float32, for bfloat16 rounds by more than the better solvers err; the states are kept in float64. Error: RMS over the
painted pixels of the state at t = 1 against dopri5's at a tolerance of 1e-7, in parts of the RMS of that. The order is
the slope of log error over log steps, between the two largest numbers of steps.
"""

import argparse
import math

import torch
from guidance import draw_cases, stored
from torchdiffeq import odeint

from cxrsynth.inpainting import load_inpainter
from cxrsynth.inpainting.coupling import couple
from cxrsynth.inpainting.guidance import Guided
from cxrsynth.inpainting.solver import integrate
from cxrsynth.inpainting.window import windows_around

STEPS = (5, 10, 20, 40)
TRUE = 1e-7
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def error(end: torch.Tensor, true: torch.Tensor, inside: torch.Tensor) -> float:
    return float(((end - true) * inside).norm() / (true * inside).norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--films", type=int, default=2)
    parser.add_argument("--warp", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--bf16", action="store_true", help="as the inpainter samples where the machine can")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = load_inpainter(options.checkpoint)
    for module in task.modules():
        if hasattr(module, "bf16"):
            module.bf16 = options.bf16
    cases = [case for number in range(options.films) for case in draw_cases(number)][::2]
    image = torch.stack([torch.as_tensor(stored(case.film)).float()[None] / 255 for case in cases])
    region = torch.stack([torch.as_tensor(case.mask).float()[None] for case in cases])
    windows = windows_around(region, context=task.hparams["context"], minimum=task.hparams["minimum"])
    size = task.hparams["size"]
    inside = windows.crop_region(region, size)
    condition = task.condition(len(cases), [])
    for row, case in enumerate(cases):
        condition.findings[row, list(task.hparams["findings"]).index(case.finding)] = 1
    noise = torch.randn(len(cases), 1, size, size, generator=torch.Generator().manual_seed(0))
    start = couple(2 * windows.crop(image, size) - 1, inside, noise)
    guided = Guided(task.painter, inside, windows.coordinates(size), condition, weight=task.hparams["guidance"])

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        return guided(x.float(), t).double()

    with torch.no_grad():
        times = torch.tensor([0, 1], dtype=torch.float64)
        true = odeint(lambda t, x: velocity(x, float(t)), start.double(), times, rtol=TRUE, atol=TRUE, method="dopri5")[
            -1
        ]
        usual = integrate(velocity, start.double(), solver="dopri5")
        print(
            f"{len(cases)} films, guidance {task.hparams['guidance']}, clock {task.hparams['clock']:g}; error against"
        )
        print(f"dopri5 at {TRUE:g}, from which dopri5 as it samples is {error(usual, true, inside):.5f} away")
        for warp in options.warp:
            print(f"time grid t = 1 - (1 - i / n)^{warp:g}")
            print(f"{'steps':>12s}" + "".join(f"{steps:10d}" for steps in STEPS) + "   order seen (of the method)")
            for solver, order in ORDERS.items():
                errors = []
                for steps in STEPS:
                    end = integrate(velocity, start.double(), solver=solver, steps=steps, warp=warp)
                    errors.append(error(end, true, inside))
                slope = math.log(errors[-2] / errors[-1]) / math.log(STEPS[-1] / STEPS[-2])
                print(f"{solver:>12s}" + "".join(f"{error:10.5f}" for error in errors) + f"   {slope:.2f} ({order})")


if __name__ == "__main__":
    main()
