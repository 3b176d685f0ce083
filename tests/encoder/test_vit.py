import pytest
import torch
from torch.nn import functional as F

from cxrsynth.encoder import ViT, normalise
from cxrsynth.encoder.layers import SwiGLU
from cxrsynth.errors import UserError

SMALL = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 3, "num_heads": 2}


def test_published_size():
    with torch.device("meta"):
        encoder = ViT()
    assert sum(p.numel() for p in encoder.parameters()) == 304_630_016


def test_swiglu_width():
    with torch.device("meta"):
        ffn = SwiGLU(1024)
    assert (ffn.w12.out_features, ffn.w3.in_features) == (5472, 2736)


def test_features_of_grey_images_are_those_of_normalised_ones():
    encoder = ViT(**SMALL).eval()
    image = torch.rand(2, 1, 32, 48)
    x = normalise(image)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x[1, 2], (image[1, 0] - mean[2]) / std[2])
    features = encoder(image, n=2)
    assert [(p.shape, c.shape) for p, c in features] == [((2, 24, 32), (2, 32))] * 2
    torch.testing.assert_close(features[-1][0], encoder.tokens(x).patches)


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("antialias", [False, True])
def test_position_resize_follows_the_rule(offset, antialias):
    encoder = ViT(**SMALL, interpolate_offset=offset, interpolate_antialias=antialias)
    assert encoder.position(4, 4) is encoder.pos_embed
    grid = encoder.pos_embed[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    rule = {"scale_factor": ((7 + offset) / 4, (2 + offset) / 4)} if offset else {"size": (7, 2)}
    want = F.interpolate(grid, mode="bicubic", antialias=antialias, **rule)
    got = encoder.position(7, 2)
    torch.testing.assert_close(got[:, 1:], want.flatten(2).transpose(1, 2))
    assert torch.equal(got[:, :1], encoder.pos_embed[:, :1])
    # as many patches as learnt, but another shape: still resized
    assert not torch.equal(encoder.position(2, 8), encoder.pos_embed)


def test_masked_patches_are_invisible():
    encoder = ViT(**SMALL).eval()
    x = torch.randn(1, 3, 32, 32)
    masks = torch.zeros(1, 16, dtype=torch.bool)
    masks[0, 5] = True
    other = x.clone()
    other[..., 8:16, 8:16] += 1  # patch 5
    assert torch.equal(encoder.tokens(x, masks).cls, encoder.tokens(other, masks).cls)
    assert not torch.equal(encoder.tokens(x).cls, encoder.tokens(other).cls)


def test_drop_path_keeps_the_mean():
    encoder = ViT(**SMALL, layer_scale=None, drop_path=0.5)
    block, x = encoder.blocks[0], torch.randn(8, 5, 32)
    torch.manual_seed(1)
    many = torch.stack([block._residual(x, lambda t: torch.ones_like(t)) for _ in range(400)])
    torch.testing.assert_close(many.mean(0), x + 1, atol=0.25, rtol=0)
    kept = (many[0] - x).mean((1, 2))
    assert sorted(kept.round().int().tolist()) == [0] * 4 + [2] * 4
    block.eval()
    torch.testing.assert_close(block._residual(x, torch.ones_like), x + 1)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = ViT(**SMALL, checkpointing=checkpointing)
        encoder.tokens(torch.ones(2, 3, 32, 32)).cls.square().sum().backward()
        gradients.append(encoder.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ViT(**SMALL | {"image_size": 30}), "image_size is 30"),
        (lambda: ViT(**SMALL | {"num_heads": 3}), "num_heads is 3"),
        (lambda: ViT(**SMALL, ffn="relu"), "ffn is 'relu'"),
        (lambda: ViT(**SMALL)(torch.rand(1, 1, 32, 30), n=3), "32 x 30"),
        (lambda: ViT(**SMALL)(torch.rand(1, 2, 32, 32), n=3), "image has shape"),
        (lambda: ViT(**SMALL)(torch.rand(1, 1, 32, 32), n=4), "n is 4"),
    ],
)
def test_mistakes_are_named(call, match):
    with pytest.raises(UserError, match=match):
        call()
