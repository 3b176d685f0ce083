"""Times of several methods in one run, so that what else happens on the machine strikes all alike."""

import os
import random
import time
from collections.abc import Callable
from contextlib import contextmanager

import cv2
import numpy as np
import torch


@contextmanager
def threads(count: int):
    """All libraries on `count` threads; one thread is held on the last core."""
    before, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    if count == 1:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(before)


def medians(methods: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each method; they take turns, each time in another order: what ran before leaves its caches."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method()  # first use: memory, caches, compilation
    order, chance = list(methods), random.Random(0)
    for _ in range(repeats):
        chance.shuffle(order)
        for name in order:
            start = time.perf_counter()
            methods[name]()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}
