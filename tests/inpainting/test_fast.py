import copy

import pytest
import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.diffusion_model_unet import WrappedUpsample
from torch import nn
from torch.nn import functional as F

from cxrsynth.inpainting import Condition
from cxrsynth.inpainting.fast import FoldedUpsample, WinogradConv2d, speed_up
from cxrsynth.inpainting.unet import VelocityUNet


def convolution(channels: int = 32, out: int = 48, **options) -> tuple[nn.Conv2d, WinogradConv2d]:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(channels, out, 3, padding=1, **options))
    plain = copy.deepcopy(ours[0])
    speed_up(ours)
    assert isinstance(ours[0], WinogradConv2d)
    return plain, ours[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 32, 12, 16), (1, 32, 24, 24), (7, 32, 12, 12)])
def test_winograd_is_the_convolution(shape, bias, monkeypatch):
    monkeypatch.setattr("cxrsynth.inpainting.fast.WORKSPACE", 600)  # several parts
    plain, ours = convolution(bias=bias)
    x = torch.randn(shape)
    expected = plain(x)
    calls: list[int] = []
    monkeypatch.setattr(torch, "bmm", lambda *a, bmm=torch.bmm: calls.append(1) or bmm(*a))
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last):
            torch.testing.assert_close(ours(x.contiguous(memory_format=layout)), expected, atol=2e-5, rtol=1e-4)
    assert calls


def test_it_steps_aside():
    plain, ours = convolution()
    x = torch.randn(1, 32, 12, 12)
    assert torch.equal(ours(x), plain(x))  # a gradient may be asked for
    with torch.no_grad():
        for other in (x[..., :11, :11], x[..., :8, :8], torch.randn(1, 32, 13, 12)):
            assert torch.equal(ours(other), plain(other))
        assert ours(x.double().float()).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(x).dtype == torch.bfloat16
    strided = nn.Sequential(nn.Conv2d(32, 32, 3, stride=2))
    speed_up(strided)
    assert type(strided[0]) is nn.Conv2d


@pytest.mark.parametrize("change", ["in place", "load", "average"])
def test_changed_weights_are_noticed(change):
    _, ours = convolution()
    x, other = torch.randn(1, 32, 12, 12), convolution()[0]
    nn.init.normal_(other.weight)
    with torch.no_grad():
        before = ours(x)
        if change == "in place":
            ours.weight.copy_(other.weight)
            ours.bias.copy_(other.bias)
        elif change == "load":
            ours.load_state_dict(other.state_dict())
        else:
            torch._foreach_lerp_(list(ours.parameters()), list(other.parameters()), 1.0)
        torch.testing.assert_close(ours(x), other(x), atol=1e-3, rtol=1e-3)
        assert not torch.allclose(before, ours(x), atol=0.1)
    assert copy.deepcopy(ours).transformed is None


def test_a_folded_upsampling_is_the_two_layers():
    torch.manual_seed(0)
    post = Convolution(2, 8, 12, strides=1, kernel_size=3, padding=1, conv_only=True)
    layer = WrappedUpsample(
        2, 8, 8, mode="nontrainable", interp_mode="nearest", scale_factor=2.0, align_corners=None, post_conv=post
    )
    x = torch.randn(2, 8, 5, 6)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), post.conv.weight, post.conv.bias, padding=1)
    holder = nn.Sequential(layer)
    speed_up(holder)
    assert isinstance(layer, FoldedUpsample)
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
        post.conv.weight.mul_(2)
        torch.testing.assert_close(layer(x), 2 * expected - post.conv.bias.view(1, -1, 1, 1), atol=1e-5, rtol=1e-5)


def test_the_network_and_its_weights_stay():
    torch.manual_seed(0)
    field = VelocityUNet(2, (32, 32, 48), (False, False, True), 1, 16, 8, patch=2).eval()
    kinds = [type(module).__name__ for module in field.modules()]
    assert kinds.count("WinogradConv2d") > 10
    assert kinds.count("FoldedUpsample") == 2
    for parameter in field.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    x, region = torch.randn(3, 1, 48, 48), torch.ones(3, 1, 48, 48)
    told = field.embed(Condition.none(3, 2))
    request = (x, torch.tensor([0.1, 0.5, 0.9]), region, torch.zeros(3, 2, 48, 48), told)
    with torch.no_grad():
        fast = field(*request)
    slow = field(*request)  # with gradient: the plain layers
    assert slow.requires_grad
    torch.testing.assert_close(fast, slow.detach(), atol=1e-4, rtol=1e-4)
