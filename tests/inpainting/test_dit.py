import copy

import pytest
import torch

from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.dit import VelocityDiT, positions, waves
from cxrsynth.inpainting.text import TextEncoder
from cxrsynth.inpainting.velocity import preconditioning

SMALL = {"dim": 32, "depth": 2, "num_heads": 2, "patch": 4}


def small(**options) -> VelocityDiT:
    torch.manual_seed(0)
    return VelocityDiT(2, **{**SMALL, **options}).eval()


def stirred(field: VelocityDiT) -> VelocityDiT:
    """With the layers that start at 0, which would hide what is wired wrongly, moved away from it."""
    torch.manual_seed(1)
    for parameter in field.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return field


def inputs(batch: int = 2, height: int = 16, width: int = 16):
    torch.manual_seed(2)
    region = torch.zeros(batch, 1, height, width)
    region[..., 3 : height // 2, 2 : width - 3] = 1
    x = torch.randn(batch, 1, height, width)
    return x, torch.rand(batch), region, torch.rand(batch, 2, height, width) * 2 - 1


def parameters(dim: int, depth: int, patch: int, findings: int) -> int:
    linear = lambda a, b: a * b + b  # noqa: E731
    block = linear(dim, 3 * dim) + linear(dim, dim)  # self-attention
    block += linear(dim, dim) + linear(dim, 2 * dim) + linear(dim, dim)  # cross-attention
    block += linear(dim, 4 * dim) + linear(4 * dim, dim) + linear(dim, 6 * dim)  # perceptron, modulation
    embedder = findings * 3 * dim + 2 * linear(dim, dim)
    ends = 4 * patch**2 * dim + dim + 2 * linear(dim, dim) + linear(dim, 2 * dim) + linear(dim, patch**2)
    return depth * block + embedder + ends


@pytest.mark.parametrize(("dim", "depth", "patch"), [(32, 2, 4), (192, 6, 2)])
def test_number_of_parameters(dim, depth, patch):
    field = VelocityDiT(5, dim, depth, 2, patch)
    assert sum(p.numel() for p in field.parameters()) == parameters(dim, depth, patch, 5)


def test_a_new_field_is_the_best_linear_guess():
    """adaLN-zero: every block is the identity and the output layer gives 0, so only the preconditioning speaks."""
    field, (x, t, region, where) = small(), inputs()
    skip, _ = preconditioning(t.view(-1, 1, 1, 1))
    torch.testing.assert_close(field(x, t, region, where, Condition.none(2, 2)), region * skip * x)
    tokens = torch.randn(2, 7, 32)
    assert torch.equal(field.blocks[0](tokens, torch.randn(2, 32), torch.randn(2, 3, 32)), tokens)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (60, 36)])
@pytest.mark.parametrize("bf16", [False, True])
def test_any_size_that_the_patch_divides(height, width, bf16):
    field, (x, t, region, where) = stirred(small(bf16=bf16)), inputs(2, height, width)
    out = field(x, t, region, where, Condition.none(2, 2))
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert (out[region == 0] == 0).all()
    assert (out[region == 1] != 0).all()


def test_it_depends_on_all_it_is_told():
    field, (x, t, region, where) = stirred(small()), inputs()
    out = field(x, t, region, where, Condition.none(2, 2))
    others = [
        field(x + 0.5, t, region, where, Condition.none(2, 2)),
        field(x, t * 0.5, region, where, Condition.none(2, 2)),
        field(x, t, region, where * 0.5, Condition.none(2, 2)),
        field(x, t, region, where, Condition.unknown(2, 2)),
        field(x, t, region, where, Condition.from_names([["b"]] * 2, ["a", "b"])),
    ]
    assert all((out - other).abs().max() > 1e-4 for other in others)


def test_patches_know_their_place():
    """Without positions, moving the whole picture by a patch would move the answer with it."""
    field = stirred(small())
    x, t = torch.zeros(1, 1, 16, 16), torch.tensor([0.5])
    x[..., 4:8, 4:8] = 1
    moved = x.roll((4, 4), (2, 3))
    everywhere, where = torch.ones_like(x), torch.zeros(1, 2, 16, 16)
    first, second = (field(image, t, everywhere, where, Condition.none(1, 2)) for image in (x, moved))
    assert (first.roll((4, 4), (2, 3)) - second).abs().max() > 1e-3


def test_embedding_the_condition_first_changes_nothing():
    field, request = stirred(small()), inputs()
    condition = Condition(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]))
    assert torch.equal(field(*request, condition), field(*request, field.embed(condition)))


def test_all_fields_reach_the_velocity():
    field = stirred(small(fields=["view", "sex", "age", "text"], text=TextEncoder(9, 16, 1, 2, 8)))
    request, nothing = inputs(1), torch.full((1, 2), torch.nan)
    told = Condition(nothing, torch.tensor([[1, 2, 3]]), torch.tensor([1]), torch.tensor([0]), torch.tensor([50.0]))
    out = field(*request, told)
    for name in ("view", "sex", "age", "text"):
        assert (out - field(*request, told.without([name]))).abs().max() > 1e-4, name


def test_gradient_reaches_every_weight():
    field = stirred(small())
    field(*inputs(), Condition(torch.tensor([[1.0, 0.0], [torch.nan, 0.0]]))).square().sum().backward()
    silent = [name for name, p in field.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_computing_activations_again_gives_the_same_gradient():
    plain, condition = stirred(small()), Condition.none(2, 2)
    again = copy.deepcopy(plain)
    again.recompute = True
    for field in (plain, again):
        field(*inputs(), condition).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_waves_are_the_usual_ones():
    table = waves(torch.tensor([0.0, 3.0]), 8)
    assert table[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    angles = torch.tensor([3.0, 0.3, 0.03, 0.003])
    torch.testing.assert_close(table[1], torch.cat([angles.cos(), angles.sin()]))
    grid = positions(3, 5, 16, torch.device("cpu"))
    assert grid.shape == (15, 16)
    assert torch.pdist(grid).min() > 0.1


def test_compiled_gives_the_same():
    field, (x, t, region, where) = stirred(small()), inputs()
    told = field.embed(Condition.none(2, 2))
    plain = field(x, t, region, where, told)
    compiled = torch.compile(field, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, t, region, where, told), plain, atol=1e-5, rtol=1e-5)
