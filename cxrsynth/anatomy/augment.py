"""Augmentation for segmenting organs: far stronger than for findings, so that few masks serve many kinds of film."""

import torch
from kornia.augmentation import (
    RandomAffine,
    RandomBrightness,
    RandomContrast,
    RandomErasing,
    RandomGamma,
    RandomGaussianBlur,
    RandomGaussianIllumination,
    RandomGaussianNoise,
)
from torch import Tensor, nn


class OrganAugment(nn.Module):
    """Other framing, other exposure, and opacities over the film; the mask follows the framing alone."""

    def __init__(self) -> None:
        super().__init__()
        self.move = RandomAffine(15.0, (0.12, 0.12), (0.75, 1.35, 0.75, 1.35), shear=6.0, p=0.9)
        self.tone = nn.Sequential(
            # white and dark clouds: opaque or overexposed parts of a lung still belong to it
            RandomGaussianIllumination((0.1, 0.45), (0.2, 0.8), (0.08, 0.35), (-1.0, 1.0), p=0.5),
            RandomGaussianIllumination((0.1, 0.45), (0.2, 0.8), (0.08, 0.35), (-1.0, 1.0), p=0.3),
            RandomErasing((0.002, 0.02), value=1.0, p=0.3),  # markers and metal
            RandomGamma((0.5, 2.0), p=0.7),
            RandomContrast((0.6, 1.4), p=0.5),
            RandomBrightness((0.8, 1.2), p=0.5),
            RandomGaussianBlur((5, 5), (0.3, 1.5), p=0.3),
            RandomGaussianNoise(std=0.03, p=0.5),
        )

    @torch.no_grad()
    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Augment images `[B, 1, S, S]` in [0, 1] with masks `[B, C, S, S]` in {0, 1}; both keep shape and range."""
        moved = self.move(torch.cat([image, mask], 1))
        return self.tone(moved[:, :1].clamp(0, 1)).clamp(0, 1), (moved[:, 1:] > 0.5).float()
