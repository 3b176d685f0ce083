"""Augmentation of a batch on its device. There is no left-right flip: a chest has a left and a right."""

import torch
from kornia.augmentation import (
    RandomAffine,
    RandomBrightness,
    RandomContrast,
    RandomGamma,
    RandomGaussianNoise,
)
from torch import Tensor, nn

from cxrsynth.errors import UserError


def build_augment(strength: float) -> "Augment":
    """The usual augmentation of chest X-rays, made weaker or stronger.

    Args:
        strength: 0 changes nothing; 1 is rotation up to 7 degrees, translation up to 5 %, scale, contrast and gamma up
            to 10 %, brightness up to 0.05 and noise of standard deviation 0.01.

    Raises:
        UserError: A strength outside [0, 3].
    """
    if not 0 <= strength <= 3:
        raise UserError(f"augment is {strength}; give a strength from 0 (none) through 1 (usual) to 3")
    return Augment(strength)


class Augment(nn.Module):
    """See `build_augment`."""

    def __init__(self, strength: float):
        super().__init__()
        s = strength
        self.active = s > 0
        self.move = RandomAffine(7 * s, (0.05 * s, 0.05 * s), (1 - 0.1 * s, 1 + 0.1 * s), p=0.8)
        self.tone = nn.Sequential(
            RandomContrast((1 - 0.1 * s, 1 + 0.1 * s), p=0.5),
            RandomBrightness((1 - 0.05 * s, 1 + 0.05 * s), p=0.5),
            RandomGamma((1 - 0.1 * s, 1 + 0.1 * s), p=0.5),
            RandomGaussianNoise(std=0.01 * s, p=0.5),
        )

    @torch.no_grad()
    def forward(self, image: Tensor, *maps: Tensor) -> list[Tensor]:
        """Augment images, and maps or regions with the same geometry.

        Args:
            image: `[B, 1, S, S]` in [0, 1].
            maps: `[B, 1, S, S]` in [0, 1], any number.

        Returns:
            All, of the same shapes and in [0, 1].
        """
        if not self.active:
            return [image, *maps]
        moved = self.move(torch.cat([image, *maps], 1))
        return [self.tone(moved[:, :1]).clamp(0, 1), *(map[:, None] for map in moved[:, 1:].unbind(1))]
