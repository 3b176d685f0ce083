"""Random numbers that depend on the seed and the place in a training alone, so that one cut off goes on alike."""

import numpy as np
import torch


def place_seed(*place: int) -> int:
    """A 32-bit seed of a place, such as (seed, epoch, batch, rank); neighbours have unrelated ones."""
    return int(np.random.SeedSequence(place).generate_state(1)[0])


def seed_place(*place: int) -> None:
    """Set torch's global generators, which dropout, drop path and kornia draw from, to those of a place."""
    torch.manual_seed(place_seed(*place))
