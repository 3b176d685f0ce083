import pytest
import torch
from torch.nn.functional import pad

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import FIELDS, Condition, index_of
from cxrsynth.inpainting.embedder import ConditionEmbedder
from cxrsynth.inpainting.text import TextEncoder

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
        embedded = embed(Condition(table))
        tokens, vector = embedded.tokens, embedded.vector
        assert tokens.shape == (3, 3, 8)
        others = [i for i in range(3) if i != finding]
        assert torch.equal(tokens[0, others], tokens[2, others])
        assert torch.cdist(tokens[:, finding], tokens[:, finding]).fill_diagonal_(1).min() > 1e-3
        vectors.append(vector)
    assert torch.pdist(torch.cat([v[1:] for v in vectors])).min() > 1e-3
    vectors[0].sum().backward()
    assert embed.states.grad is not None


def whole(batch: int = 4) -> Condition:
    """Every field known in every image."""
    return Condition(
        torch.zeros(batch, 3),
        text=torch.arange(1, 6).expand(batch, 5),
        view=torch.ones(batch, dtype=torch.long),
        sex=torch.zeros(batch, dtype=torch.long),
        age=torch.full((batch,), 61.0),
    )


def test_fields_not_given_are_unknown():
    condition = Condition.none(2, 3)
    assert [name for name in FIELDS if condition.known(name).any()] == ["findings"]
    assert all(whole().known(name).all() for name in FIELDS)


def test_forgetting_one_field_leaves_the_others():
    for name in FIELDS:
        less = whole().without([name])
        assert [other for other in FIELDS if not less.known(other).any()] == [name]
    assert not any(whole().as_unknown().known(name).any() for name in FIELDS)


def test_none_forgets_the_text_that_may_say_otherwise():
    none = Condition.from_names([["Effusion"]], NAMES)
    none = Condition(none.findings, whole(1).text, whole(1).view, whole(1).sex, whole(1).age).as_none()
    same(none.findings, [[0.0, 0, 0]])
    assert [name for name in FIELDS if not none.known(name).any()] == ["text"]


def test_fields_are_dropped_independently_at_their_rates():
    condition = whole(20_000).dropped(0.0, 0.0, torch.Generator().manual_seed(0), {"text": 0.3, "sex": 0.1})
    lost = {name: ~condition.known(name) for name in FIELDS}
    for name, rate in {"text": 0.3, "sex": 0.1, "view": 0.0, "age": 0.0, "findings": 0.0}.items():
        assert lost[name].float().mean() == pytest.approx(rate, abs=0.01)
    assert (lost["text"] & lost["sex"]).float().mean() == pytest.approx(0.03, abs=0.006)
    everything = whole(1000).dropped(0.5, 0.0)
    assert all(torch.equal(everything.known("age"), everything.known(name)) for name in FIELDS)


def test_cat_pads_texts_and_slices_undo_it():
    both = Condition.cat([Condition.none(1, 3), whole(2)])
    assert len(both) == 3
    assert both.known("text").tolist() == [False, True, True]
    assert torch.equal(both[1:].text, whole(2).text)
    assert both[:1].known("age").tolist() == [False]


def test_index_of_names():
    assert index_of(["AP", "", "LATERAL", "PA"], ["PA", "AP"]).tolist() == [1, -1, -1, 0]


def embedder() -> ConditionEmbedder:
    torch.manual_seed(0)
    return ConditionEmbedder(3, 8, 16, ["view", "sex", "age", "text"], 2, TextEncoder(20, 16, 1, 2, 8), 4).eval()


def test_every_field_changes_the_vector_and_its_own_tokens_only():
    embed, condition = embedder(), whole(1)
    base = embed(condition)
    assert base.tokens.shape == (1, 3 + 3 + 4, 8)
    mine = {"findings": range(3), "view": [3], "sex": [4], "age": [5], "text": range(6, 10)}
    for name, tokens in mine.items():
        other = embed(condition.without([name]))
        assert (other.vector - base.vector).abs().max() > 1e-3
        changed = (other.tokens - base.tokens).abs().amax(2)[0] > 1e-4
        assert set(changed.nonzero().flatten().tolist()) == set(tokens)


def test_ages_are_told_apart_and_neighbours_are_alike():
    embed = embedder()
    tokens = torch.cat([embed.age(torch.tensor([float(age)])) for age in (20, 60, 61, 90)])
    distance = torch.cdist(tokens, tokens)
    assert distance[1, 2] < 0.2 * distance[0, 3]


def test_tokens_of_a_text_do_not_depend_on_how_far_it_is_padded():
    embed, ids = embedder(), torch.tensor([[3, 4, 5]])
    short, long = (embed(Condition(torch.zeros(1, 3), text=text)) for text in (ids, pad(ids, (0, 4), value=-1)))
    torch.testing.assert_close(short.tokens, long.tokens, atol=1e-5, rtol=1e-5)


def test_an_embedder_of_findings_ignores_other_fields():
    torch.manual_seed(0)
    embed = ConditionEmbedder(3, 8, 16)
    assert set(embed.state_dict()) == {"states", *(f"to_vector.{i}.{w}" for i in (0, 2) for w in ("weight", "bias"))}
    assert torch.equal(embed(whole()).vector, embed(Condition(torch.zeros(4, 3))).vector)
