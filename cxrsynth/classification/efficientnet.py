"""EfficientNet (Tan and Le 2019, arXiv 1905.11946) for one-channel images in [0, 1]."""

import torch
from monai.networks.nets import EfficientNetBN
from monai.networks.nets.efficientnet import MBConvBlock
from torch import Tensor, nn

from cxrsynth.classification.compact import PRIOR_LOGIT
from cxrsynth.errors import UserError

NETWORKS = tuple(f"efficientnet-b{size}" for size in range(8))
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class EfficientNet(nn.Module):
    """MONAI's EfficientNet behind the image contract: one channel in [0, 1], normalised inside.

    Args:
        name: "efficientnet-b0" to "efficientnet-b7".
        num_findings: Number of outputs C.
        batch_norm_momentum: Weight of the newest batch in the running statistics. The original 0.01 remembers
            hundreds of steps; short runs from scratch need 0.1, or evaluation sees statistics of early training.
        drop_connect: Largest rate at which a residual branch is skipped in training (stochastic depth).

    Raises:
        UserError: The name is not one of the eight.
    """

    def __init__(
        self, name: str, num_findings: int, *, batch_norm_momentum: float = 0.1, drop_connect: float = 0.2
    ) -> None:
        super().__init__()
        if name not in NETWORKS:
            raise UserError(f"network is {name!r}; choose compact or one of {', '.join(NETWORKS)}")
        self.name = name
        norm = ("batch", {"eps": 1e-3, "momentum": batch_norm_momentum})
        self.net = EfficientNetBN(name, pretrained=False, in_channels=3, num_classes=num_findings, norm=norm)
        blocks = [module for module in self.net.modules() if isinstance(module, MBConvBlock)]
        for index, block in enumerate(blocks):
            block.drop_connect_rate = drop_connect * index / len(blocks)
        for module in self.net.modules():
            if hasattr(module, "_swish"):
                module._swish = nn.SiLU(inplace=True)  # the same function in one fused kernel
        nn.init.constant_(self.net._fc.bias, PRIOR_LOGIT)
        # with SiLU, 1.8 times the speed of training on a CPU
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the findings.

        Args:
            image: `[B, 1, H, W]` float in [0, 1].

        Returns:
            `[B, C]` logits.
        """
        assert image.shape[1:2] == (1,), f"expected [B, 1, H, W], got {tuple(image.shape)}"
        return self.net((image.expand(-1, 3, -1, -1) - self.mean) / self.std)
