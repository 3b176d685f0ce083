import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition, ConditionEmbedder
from cxrsynth.inpainting.guidance import guide

NAMES = ["Effusion", "Nodule/Mass", "Pneumothorax"]
NAN = torch.nan


def same(a: torch.Tensor, b: list) -> None:
    torch.testing.assert_close(a, torch.tensor(b), equal_nan=True)


def test_constructors():
    same(Condition.from_names([["Nodule/Mass"], [], ["Effusion", "Pneumothorax"]], NAMES).findings,
         [[0.0, 1, 0], [0, 0, 0], [1, 0, 1]])  # fmt: skip
    same(Condition.none(1, 3).findings, [[0.0, 0, 0]])
    same(Condition.unknown(1, 3).findings, [[NAN, NAN, NAN]])
    with pytest.raises(UserError, match="Hernia"):
        Condition.from_names([["Hernia"]], NAMES)


def test_dropping_rates():
    known = Condition.none(20_000, 3)
    whole = known.dropped(0.1, 0.0).findings.isnan()
    assert whole.all(1).float().mean() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(whole.all(1), whole.any(1))
    each = known.dropped(0.0, 0.2).findings.isnan().float()
    torch.testing.assert_close(each.mean(0), torch.full((3,), 0.2), atol=0.01, rtol=0)
    assert not known.dropped(0.0, 0.0).findings.isnan().any()


def test_dropping_is_reproducible_and_keeps_what_is_known():
    condition = Condition.from_names([["Effusion"]] * 50, NAMES)
    first, second = (condition.dropped(0.3, 0.3, torch.Generator().manual_seed(4)).findings for _ in range(2))
    torch.testing.assert_close(first, second, equal_nan=True)
    kept = ~first.isnan()
    assert torch.equal(first[kept], condition.findings[kept])


def test_embedder_tells_the_three_states_of_each_finding_apart():
    embed = ConditionEmbedder(3, 8, 16)
    states = torch.tensor([0.0, 1.0, NAN])
    vectors = []
    for finding in range(3):
        table = torch.zeros(3, 3)
        table[:, finding] = states
        tokens, vector = embed(Condition(table))
        assert tokens.shape == (3, 3, 8)
        others = [i for i in range(3) if i != finding]
        assert torch.equal(tokens[0, others], tokens[2, others])
        assert torch.cdist(tokens[:, finding], tokens[:, finding]).fill_diagonal_(1).min() > 1e-3
        vectors.append(vector)
    assert torch.pdist(torch.cat([v[1:] for v in vectors])).min() > 1e-3
    vectors[0].sum().backward()
    assert embed.states.grad is not None


class Linear:
    """A field whose velocity is known: finding 0's value, 10 where it is unknown."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x, t, region, coordinates, condition):
        self.batches.append(len(x))
        return condition.findings[:, :1, None, None].nan_to_num(10.0).expand_as(x)


def ask(weight: float, baseline: str = "unknown") -> tuple[torch.Tensor, Linear]:
    x, field = torch.zeros(2, 1, 4, 4), Linear()
    condition = Condition.from_names([["Effusion"], []], NAMES)
    out = guide(field, x, torch.zeros(2), x, x.expand(2, 2, 4, 4), condition, weight=weight, baseline=baseline)
    return out[:, 0, 0, 0], field


def test_guidance_formula_in_one_forward():
    velocity, field = ask(2.5)
    same(velocity, [10 + 2.5 * (1 - 10), 10 + 2.5 * (0 - 10)])
    assert field.batches == [4]
    same(ask(0.0)[0], [10.0, 10.0])
    same(ask(3.0, "none")[0], [3.0, 0.0])


def test_guidance_weight_one_is_the_conditional_field():
    velocity, field = ask(1.0)
    same(velocity, [1.0, 0.0])
    assert field.batches == [2]


def test_guidance_refuses_an_unknown_baseline():
    with pytest.raises(UserError, match="somewhere"):
        ask(2.0, "somewhere")
