import pytest
import torch
from safetensors.torch import save_file

from cxrsynth.attention import CXR_LT_40, GLoRI, load_glori
from cxrsynth.errors import UserError


def features_of(batch=2, patches=12, dim=16, blocks=4):
    return [(torch.randn(batch, patches, dim), torch.randn(batch, dim)) for _ in range(blocks)]


def make(**changes) -> GLoRI:
    return GLoRI(**{"findings": 5, "encoder_dim": 16, "dim": 32, "num_heads": 4, "ffn_hidden": 24} | changes).eval()


def test_published_sizes():
    with torch.device("meta"):
        plain, cat_cls = GLoRI(40), GLoRI(40, cat_cls=True)
    assert sum(p.numel() for p in plain.parameters()) == 8_723_496
    assert sum(p.numel() for p in cat_cls.parameters()) == 8_887_336
    assert len(set(CXR_LT_40)) == 40


@pytest.mark.parametrize("cat_cls", [False, True])
def test_forward_is_the_formula(cat_cls):
    head, features = make(cat_cls=cat_cls), features_of()
    with torch.no_grad():
        x = torch.cat([p for p, _ in features], -1)
        memory = torch.relu(x @ head.embed.weight.T + head.embed.bias)
        token = torch.nn.functional.layer_norm(2 * head.queries, (32,)) * head.norm1.weight + head.norm1.bias
        wq, wk, wv = head.cross_attention.in_proj_weight.chunk(3)
        q, k, v = (token @ wq.T).view(5, 4, 8), (memory @ wk.T).view(2, 12, 4, 8), (memory @ wv.T).view(2, 12, 4, 8)
        attention = (torch.einsum("chd,bnhd->bhcn", q, k) / 8**0.5).softmax(-1)
        context = torch.einsum("bhcn,bnhd->bchd", attention, v).reshape(2, 5, 32)
        context = context @ head.cross_attention.out_proj.weight.T + head.cross_attention.out_proj.bias
        token = head.norm2(token + context)
        token = head.norm3(token + head.linear2(torch.relu(head.linear1(token))))
        if cat_cls:
            cls = torch.cat([c for _, c in features], -1)
            token = torch.cat([cls[:, None].expand(2, 5, 64), token], -1)
        logits = torch.stack([token[:, c] @ head.weight[c] + head.bias[c] for c in range(5)], 1)
        torch.testing.assert_close(head.attention(features), attention, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(head(features), logits, rtol=1e-4, atol=1e-5)


def test_one_finding_on_demand_equals_all():
    head, features = make(), features_of()
    torch.testing.assert_close(head.attention(features, [3]), head.attention(features)[:, :, 3:4])


def test_picked_findings_answer_as_before():
    head, features = make(cat_cls=True, classes=list("abcde")), features_of()
    picked = head.pick(["d", "a"])
    assert picked.classes == ("d", "a")
    assert not picked.queries.requires_grad
    torch.testing.assert_close(picked(features), head(features)[:, [3, 0]])
    with pytest.raises(UserError, match="finding 'x' is unknown"):
        head.pick(["x"])


def test_attention_is_refused_in_training_mode():
    with pytest.raises(UserError, match="eval"):
        make().train().attention(features_of())


def test_queries_are_frozen_but_saved():
    head = make()
    assert not head.queries.requires_grad
    assert "queries" in head.state_dict()


def published(head: GLoRI, prefix: str) -> dict:
    theirs = {"queries": "query_embed.weight", "weight": "duplicate_pooling", "bias": "duplicate_pooling_bias"}
    state = {}
    for key, value in head.state_dict().items():
        if key in theirs:
            key = theirs[key]
        elif key.startswith("embed."):
            key = key.replace("embed.", "embed_standart.")
        else:
            key = "layers.0." + key.replace("cross_attention", "multihead_attn")
        state[f"{prefix}decoder.{key}"] = value.unsqueeze(-1) if key == "duplicate_pooling" else value
    return state


@pytest.mark.parametrize("cat_cls", [False, True])
@pytest.mark.parametrize("blocks", [1, 4])
def test_published_layout(tmp_path, cat_cls, blocks):
    head = make(cat_cls=cat_cls, blocks=blocks)
    prefix = f"classifiers_dict.linear:blocks={blocks}:avgpool=False:lr=0_01."
    torch.save({"model": published(head, prefix), "iteration": 1}, tmp_path / "glori.pth")
    loaded = load_glori(tmp_path / "glori.pth", num_heads=4)
    features = features_of()
    assert not loaded.training
    torch.testing.assert_close(loaded(features), head(features))
    torch.testing.assert_close(loaded.attention(features), head.attention(features))


def test_several_heads_need_a_name(tmp_path):
    one, two = make(), make()
    state = published(one, "classifiers_dict.a.") | published(two, "classifiers_dict.b.")
    torch.save({"model": state}, tmp_path / "glori.pth")
    with pytest.raises(UserError, match="'a', 'b'"):
        load_glori(tmp_path / "glori.pth", num_heads=4)
    assert torch.equal(load_glori(tmp_path / "glori.pth", name="b", num_heads=4).queries, two.queries)


def test_every_key_matters(tmp_path):
    """Whichever key is renamed, by a letter or to this program's own name, is refused by its name."""
    ours = published(make(), "classifiers_dict.a.")
    for old in ours:
        bare = old.removeprefix("classifiers_dict.a.decoder.")
        own = {"duplicate_pooling": "weight", "query_embed.weight": "queries", "embed_standart.bias": "embed.bias"}
        others = {old + "_", bare, old.replace("layers.0.", ""), old.replace("multihead_attn", "cross_attention")}
        others |= {f"classifiers_dict.a.decoder.{own.get(bare, bare)}", f"module.classifiers_dict.a.{bare}"}
        for new in others - {old}:
            torch.save({"model": {new if key == old else key: v for key, v in ours.items()}}, tmp_path / "glori.pth")
            with pytest.raises(UserError) as error:
                load_glori(tmp_path / "glori.pth", num_heads=4)
            assert new in str(error.value)
            assert old in str(error.value)


def test_shapes_and_types_are_checked(tmp_path):
    state = published(make(), "classifiers_dict.a.") | {"classifiers_dict.a.decoder.layers.0.norm2.bias": torch.ones(3)}
    state["classifiers_dict.a.decoder.layers.0.norm1.bias"] = torch.ones(32, dtype=torch.int32)
    torch.save(state, tmp_path / "glori.pth")
    with pytest.raises(UserError, match=r"mis-shaped \S*norm2.bias \(3,\) instead of \(32,\); not of .*norm1.bias"):
        load_glori(tmp_path / "glori.pth", num_heads=4)
    torch.save({"model": {"fc.weight": torch.ones(2, 2)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"no GLoRI head; found fc\.weight"):
        load_glori(tmp_path / "other.pth")


def test_half_precision_and_safetensors(tmp_path):
    head = make(cat_cls=True)
    state = {key: value.half() for key, value in published(head, "classifiers_dict.a.").items()}
    save_file(state, tmp_path / "glori.safetensors")
    loaded = load_glori(tmp_path / "glori.safetensors", num_heads=4)
    assert torch.equal(loaded.weight, head.weight.half().float())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not loaded.queries.requires_grad


def test_classes_are_the_users_or_cxr_lt(tmp_path):
    features = features_of()
    torch.save(published(make(), "classifiers_dict.a."), tmp_path / "five.pth")
    assert load_glori(tmp_path / "five.pth", num_heads=4).classes is None
    with pytest.raises(UserError, match="give findings when the head is loaded"):
        load_glori(tmp_path / "five.pth", num_heads=4).attention(features, ["Mass"])
    head = load_glori(tmp_path / "five.pth", num_heads=4, findings=["A", "B", "C", "D", "Mass"])
    assert torch.equal(head.attention(features, ["Mass", "A"]), head.attention(features, [4, 0]))
    with pytest.raises(UserError, match=r"finding .Nodule. is unknown .* A, B, C, D, Mass"):
        head.attention(features, ["Nodule"])
    for wrong in (["A"], ["A", "A", "B", "C", "D"]):
        with pytest.raises(UserError, match="5 findings; give as many different names"):
            load_glori(tmp_path / "five.pth", num_heads=4, findings=wrong)
    torch.save(published(make(findings=40), "classifiers_dict.a."), tmp_path / "forty.pth")
    assert load_glori(tmp_path / "forty.pth", num_heads=4).classes == CXR_LT_40
