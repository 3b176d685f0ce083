"""A small residual network for one-channel images: another architecture than the judge's, for scoring what is made."""

import torch
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from cxrsynth.classification.compact import PRIOR_LOGIT

WIDTHS = (16, 32, 64, 128)


class ResidualNet(nn.Module):
    """MONAI's ResNet with one basic block a stage, then mean and maximum over the image.

    Args:
        num_findings: Number of outputs C.
    """

    def __init__(self, num_findings: int) -> None:
        super().__init__()
        self.net = ResNet(
            block="basic",
            layers=[1] * len(WIDTHS),
            block_inplanes=list(WIDTHS),
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_size=5,
            conv1_t_stride=2,
            no_max_pool=True,
            feed_forward=False,
        )
        self.output = nn.Linear(2 * WIDTHS[-1], num_findings)
        nn.init.constant_(self.output.bias, PRIOR_LOGIT)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """Logits `[B, C]` of images `[B, 1, H, W]` in [0, 1]."""
        net = self.net
        x = net.act(net.bn1(net.conv1((4 * (image - 0.5)).contiguous(memory_format=torch.channels_last))))
        x = net.layer4(net.layer3(net.layer2(net.layer1(x))))
        return self.output(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
