import copy

import pytest
import torch
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import Tensor, nn
from torch.nn import functional as F

from cxrsynth.inpainting import Condition, fast
from cxrsynth.inpainting.fast import FusedResnetBlock, WinogradConv, speed_up
from cxrsynth.inpainting.unet import VelocityUNet
from cxrsynth.ops import convolution


@pytest.fixture
def layer() -> WinogradConv:
    torch.manual_seed(0)
    holder = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1)).to(memory_format=torch.channels_last)
    speed_up(holder)
    assert isinstance(holder[0], WinogradConv)
    return holder[0]


@pytest.fixture
def ran(monkeypatch):
    """Shapes of what went through the kernel."""
    shapes = []
    monkeypatch.setattr(convolution, "workspace", lambda n, f=convolution.workspace: shapes.append(n) or f(n))
    return shapes


def image(*shape: int) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


def expected(layer: WinogradConv, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, padding=1)


def test_a_layer_steps_aside(layer, ran):
    x = image(1, 32, 8, 8)
    layer(x).sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert not ran


@torch.no_grad()
@pytest.mark.parametrize("change", ["in place", "load", "average", "data"])
def test_changed_weights_are_noticed(layer, change, ran):
    x = image(1, 32, 8, 8)
    before, other = layer(x), nn.Conv2d(32, 48, 3)
    kept = layer.kept[1]
    layer(x)
    assert layer.kept[1] is kept
    if change == "in place":
        layer.weight.mul_(-3)
    elif change == "load":
        layer.load_state_dict(other.state_dict())
    elif change == "data":
        layer.weight.data.copy_(other.weight)
    else:
        torch._foreach_lerp_(list(layer.parameters()), list(other.parameters()), 1.0)
    torch.testing.assert_close(layer(x), expected(layer, x), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, layer(x), atol=0.01)
    assert copy.deepcopy(layer).kept is None
    assert len(ran) == 4


@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"padding_mode": "reflect"}],
)
def test_other_layers_stay(options):
    holder = nn.Sequential(nn.Conv2d(32, 32, 3, **{"padding": 1, **options}), nn.Conv2d(8, 32, 3, padding=1))
    speed_up(holder)
    assert all(type(one) is nn.Conv2d for one in holder)


def test_the_network_and_its_weights_stay(ran):
    torch.manual_seed(0)
    field = VelocityUNet(2, (32, 32, 32), (False, False, True), 1, 16, 8, patch=2).eval()
    assert "unet.down_blocks.0.resnets.0.conv1.conv.weight" in field.state_dict()
    for parameter in field.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    x, region = torch.randn(3, 1, 32, 32), torch.ones(3, 1, 32, 32)
    told = field.embed(Condition.none(3, 2))
    request = (x, torch.tensor([0.1, 0.5, 0.9]), region, torch.zeros(3, 2, 32, 32), told)
    with torch.no_grad():
        fast = field(*request)
    assert len(ran) > 8
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
    torch.testing.assert_close(fused(x, emb), plain(x, emb), atol=1e-4, rtol=1e-4)
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
