import copy

import pytest
import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, WrappedUpsample
from torch import Tensor, nn
from torch.nn import functional as F

from cxrsynth.inpainting import Condition, fast
from cxrsynth.inpainting.fast import FoldedUpsample, FusedResnetBlock, speed_up
from cxrsynth.inpainting.unet import VelocityUNet


@pytest.fixture
def layer() -> FoldedUpsample:
    torch.manual_seed(0)
    post = Convolution(2, 8, 12, strides=1, kernel_size=3, padding=1, conv_only=True)
    options = {"mode": "nontrainable", "interp_mode": "nearest", "scale_factor": 2.0, "align_corners": None}
    holder = nn.Sequential(WrappedUpsample(2, 8, 8, **options, post_conv=post))
    speed_up(holder)
    assert isinstance(holder[0], FoldedUpsample)
    return holder[0]


def expected(layer: FoldedUpsample, x: Tensor) -> Tensor:
    convolution = layer.postconv.conv
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), convolution.weight, convolution.bias, padding=1)


@torch.no_grad()
def test_a_folded_upsampling_is_the_two_layers(layer, monkeypatch):
    x, calls = torch.randn(2, 8, 5, 6), []
    monkeypatch.setattr(F, "conv_transpose2d", lambda *a, f=F.conv_transpose2d, **k: calls.append(1) or f(*a, **k))
    for layout in (torch.contiguous_format, torch.channels_last):
        result = layer(x.contiguous(memory_format=layout))
        torch.testing.assert_close(result, expected(layer, x), atol=1e-5, rtol=1e-5)
    assert len(calls) == 2


def test_it_steps_aside(layer):
    x = torch.randn(1, 8, 4, 4)
    layer(x).sum().backward()
    assert layer.postconv.conv.weight.grad.abs().sum() > 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("change", ["in place", "load", "average"])
def test_changed_weights_are_noticed(layer, change):
    x, convolution = torch.randn(1, 8, 4, 4), layer.postconv.conv
    before, other = layer(x), nn.Conv2d(8, 12, 3)
    if change == "in place":
        convolution.weight.mul_(-3)
    elif change == "load":
        convolution.load_state_dict(other.state_dict())
    else:
        torch._foreach_lerp_(list(convolution.parameters()), list(other.parameters()), 1.0)
    torch.testing.assert_close(layer(x), expected(layer, x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, layer(x), atol=0.01)
    assert copy.deepcopy(layer).folded is None


def test_the_network_and_its_weights_stay():
    torch.manual_seed(0)
    field = VelocityUNet(2, (16, 16, 32), (False, False, True), 1, 16, 8, patch=2).eval()
    assert sum(isinstance(module, FoldedUpsample) for module in field.modules()) == 2
    for parameter in field.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    x, region = torch.randn(3, 1, 16, 16), torch.ones(3, 1, 16, 16)
    told = field.embed(Condition.none(3, 2))
    request = (x, torch.tensor([0.1, 0.5, 0.9]), region, torch.zeros(3, 2, 16, 16), told)
    with torch.no_grad():
        fast = field(*request)
    slow = field(*request)  # with gradient: the plain layers
    assert slow.requires_grad
    torch.testing.assert_close(fast, slow.detach(), atol=1e-4, rtol=1e-4)


def block(**options) -> tuple[FusedResnetBlock, DiffusionUNetResnetBlock]:
    """A block with the fused forward, and the same as MONAI has it."""
    torch.manual_seed(0)
    plain = DiffusionUNetResnetBlock(2, 32, 24, out_channels=48, norm_num_groups=8, **options)
    for parameter in plain.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    holder = nn.Sequential(copy.deepcopy(plain))
    speed_up(holder)
    assert isinstance(holder[0], FusedResnetBlock)
    assert list(holder[0].state_dict()) == list(plain.state_dict())
    return holder[0].to(memory_format=torch.channels_last), plain


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"up": True}, {"down": True}])
def test_a_fused_block_is_monais(options, monkeypatch):
    fused, plain = block(**options)
    calls = []
    kernel = fast.norm_silu
    monkeypatch.setattr(
        fast, "norm_silu", lambda *a: calls.append(a[0].is_contiguous(memory_format=torch.channels_last)) or kernel(*a)
    )
    x, emb = torch.randn(2, 32, 6, 8).contiguous(memory_format=torch.channels_last), torch.randn(2, 24)
    torch.testing.assert_close(fused(x, emb), plain(x, emb), atol=1e-5, rtol=1e-5)
    assert calls == [True, True]
    with torch.autocast("cpu", torch.bfloat16):
        half = fused(x, emb)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain(x, emb), atol=0.05, rtol=0.05)


def test_a_fused_block_learns_as_monais():
    fused, plain = block()
    x, emb = torch.randn(2, 32, 6, 8), torch.randn(2, 24)
    for one in (fused, plain):
        one(x, emb).square().sum().backward()
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-3, rtol=1e-3)
