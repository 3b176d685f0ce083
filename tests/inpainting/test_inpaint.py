import copy

import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting import Condition, inpaint
from cxrsynth.inpainting.unet import VelocityUNet
from cxrsynth.inpainting.velocity import preconditioning

SMALL = {"channels": (8, 16), "attention": (False, False), "head_channels": 8, "norm_groups": 4, "token_width": 8}


def small_field(patch: int = 1, bf16: bool = False) -> VelocityUNet:
    torch.manual_seed(0)
    field = VelocityUNet(2, **SMALL, patch=patch, bf16=bf16).eval()
    for parameter in field.parameters():  # the zero-initialised layers would hide what is wired wrongly
        parameter.data += 0.05 * torch.randn_like(parameter)
    return field


def region_of(batch: int, side: int = 40) -> torch.Tensor:
    region = torch.zeros(batch, 1, side, side)
    region[..., 8:20, 10:24] = 1
    return region


OPTIONS = {"velocity": small_field(), "size": 16, "steps": 3, "guidance": 1.5}


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("bf16", [False, True])
def test_field_is_zero_outside_and_depends_on_all_it_is_told(patch: int, bf16: bool):
    field, region = small_field(patch, bf16), region_of(1, 24)
    x, t, where = torch.randn(1, 1, 24, 24), torch.tensor([0.3]), torch.rand(1, 2, 24, 24)
    out = field(x, t, region, where, Condition.none(1, 2))
    assert out.dtype == torch.float32
    assert out.shape == x.shape
    assert (out[region == 0] == 0).all()
    others = [
        field(x + 0.5, t, region, where, Condition.none(1, 2)),
        field(x, t + 0.5, region, where, Condition.none(1, 2)),
        field(x, t, region, where + 0.5, Condition.none(1, 2)),
        field(x, t, region, where, Condition.unknown(1, 2)),
        field(x, t, region, where, Condition.from_names([["b"]], ["a", "b"])),
    ]
    assert all((out - other).abs().max() > 1e-4 for other in others)


def test_gradient_reaches_every_weight():
    field, region = small_field(patch=2), region_of(2, 24)
    condition = Condition(torch.tensor([[1.0, 0.0], [torch.nan, 0.0]]))
    field(
        torch.randn(2, 1, 24, 24), torch.rand(2), region, torch.rand(2, 2, 24, 24), condition
    ).square().sum().backward()
    silent = [name for name, p in field.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A softmax over keys does not see a constant added to all of them.
    assert [name for name in silent if "to_k.bias" not in name] == []


def test_image_is_exact_outside_the_region_and_painted_inside():
    image, region = torch.rand(3, 1, 40, 40), region_of(3)
    painted = inpaint(image, region, Condition.none(3, 2), seeds=[1, 2, 3], **OPTIONS)
    assert torch.equal(painted[region == 0], image[region == 0])
    assert (painted != image)[region == 1].float().mean() > 0.95
    assert 0 <= painted.min() <= painted.max() <= 1


def test_empty_region_is_the_identity_even_beside_a_full_one():
    image, region = torch.rand(2, 1, 40, 40), region_of(2)
    region[1] = 0
    painted = inpaint(image, region, Condition.none(2, 2), seeds=[1, 2], **OPTIONS)
    assert torch.equal(painted[1], image[1])
    assert not torch.equal(painted[0], image[0])
    empty = inpaint(image, torch.zeros_like(region), Condition.none(2, 2), seeds=[1, 2], **OPTIONS)
    assert torch.equal(empty, image)


def test_each_image_follows_its_own_seed():
    image, region = torch.rand(1, 1, 40, 40).repeat(3, 1, 1, 1), region_of(3)
    first = inpaint(image, region, Condition.none(3, 2), seeds=[5, 6, 5], **OPTIONS)
    turned = inpaint(image, region, Condition.none(3, 2), seeds=[6, 5, 5], **OPTIONS)
    torch.testing.assert_close(first[0], first[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(first[0], turned[1], atol=1e-5, rtol=0)
    assert (first[0] - first[1]).abs().max() > 0.05
    alone = inpaint(image[:1], region[:1], Condition.none(1, 2), seeds=[6], **OPTIONS)
    torch.testing.assert_close(first[1], alone[0], atol=1e-5, rtol=0)


def test_same_call_gives_the_same_bits():
    image, region = torch.rand(2, 1, 40, 40), region_of(2)
    runs = [inpaint(image, region, Condition.none(2, 2), seeds=[1, 2], **OPTIONS) for _ in range(2)]
    assert torch.equal(*runs)


def test_any_size_and_shape():
    image, region = torch.rand(1, 1, 90, 61), torch.ones(1, 1, 90, 61)
    assert inpaint(image, region, Condition.none(1, 2), seeds=[0], **OPTIONS).shape == image.shape


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"image": torch.rand(40, 40)}, "shape"),
        ({"region": torch.zeros(2, 1, 20, 20)}, "region"),
        ({"region": torch.full((2, 1, 40, 40), 0.5)}, "threshold"),
        ({"seeds": [1]}, "seeds"),
        ({"condition": Condition.none(3, 2)}, "conditions"),
    ],
)
def test_bad_requests_are_one_sentence(change: dict, word: str):
    request = {
        "image": torch.rand(2, 1, 40, 40),
        "region": region_of(2),
        "condition": Condition.none(2, 2),
        "seeds": [1, 2],
    }
    with pytest.raises(UserError, match=word):
        inpaint(**{**request, **change}, **OPTIONS)


def test_preconditioning_is_the_best_linear_guess():
    x1, z = 0.5 * torch.randn(200_000, dtype=torch.float64), torch.randn(200_000, dtype=torch.float64)
    for time in (0.0, 0.3, 0.8, 1.0):
        x, v = (1 - time) * z + time * x1, x1 - z
        skip, scale = preconditioning(torch.tensor(time, dtype=torch.float64))
        assert skip.item() == pytest.approx(((x * v).mean() / (x * x).mean()).item(), abs=0.02)
        assert scale.item() == pytest.approx((v - skip * x).std().item(), rel=0.02)


def test_strength_leads_from_the_source_to_a_painting_from_nothing():
    image, region = torch.rand(2, 1, 40, 40), region_of(2)
    request = (image, region, Condition.none(2, 2))
    change = [
        (inpaint(*request, seeds=[1, 2], **OPTIONS, strength=strength) - image).abs().mean().item()
        for strength in (0.0, 0.25, 0.5, 1.0)
    ]
    assert change[0] < 1e-6
    assert change == sorted(change)
    assert torch.equal(
        inpaint(*request, seeds=[1, 2], **OPTIONS, strength=1.0), inpaint(*request, seeds=[1, 2], **OPTIONS)
    )
    with pytest.raises(UserError, match="strength"):
        inpaint(*request, seeds=[1, 2], **OPTIONS, strength=1.2)


def test_a_field_whose_activations_are_computed_again_learns_the_same():
    region, condition = region_of(2, 24), Condition.none(2, 2)
    inputs = (torch.randn(2, 1, 24, 24), torch.rand(2), region, torch.rand(2, 2, 24, 24), condition)
    plain = small_field()
    again = VelocityUNet(2, **SMALL, recompute=True).eval()
    again.load_state_dict(plain.state_dict())
    copied = copy.deepcopy(again)
    for field in (plain, again):
        field(*inputs).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    assert copied(*inputs).abs().max() > 0  # the copy's blocks are its own
