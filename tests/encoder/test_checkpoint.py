import pytest
import torch

from cxrsynth.encoder import ViT, inspect_encoder, load_encoder
from cxrsynth.errors import UserError


def make(**changes) -> ViT:
    config = {"image_size": 32, "patch_size": 8, "dim": 64, "depth": 4, "num_heads": 1, "registers": 2} | changes
    return ViT(**config)


def chunked(state: dict, size: int) -> dict:
    """The layout of block_chunks: `blocks.<chunk>.<i>.`, i counting over all blocks."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("blocks."):
            index, rest = key.removeprefix("blocks.").split(".", 1)
            key = f"blocks.{int(index) // size}.{index}.{rest}"
        renamed[key] = value
    return renamed


def same(a: ViT, b: ViT, size: tuple[int, int] = (32, 32)) -> None:
    image = torch.rand(2, 1, *size)
    with torch.no_grad():
        for (p, c), (q, d) in zip(a.eval()(image), b(image), strict=True):
            assert torch.equal(p, q)
            assert torch.equal(c, d)


@pytest.mark.parametrize("changes", [{}, {"ffn": "mlp"}, {"registers": 0}, {"layer_scale": None}, {"ffn_hidden": 40}])
@pytest.mark.parametrize("layout", ["chunked", "flat", "release"])
def test_published_layouts(tmp_path, changes, layout):
    encoder = make(**changes)
    state = encoder.state_dict()
    if layout == "chunked":
        state = chunked(state, 2)
    if layout != "release":
        head = {"dino_head.mlp.0.weight": torch.zeros(1), "ibot_head.mlp.0.weight": torch.zeros(1)}
        state = {"teacher": {f"backbone.{key}": value for key, value in state.items()} | head}
    torch.save(state, tmp_path / "file.pth")
    loaded = load_encoder(tmp_path / "file.pth")
    assert not loaded.training
    same(encoder, loaded)
    same(encoder, loaded, (16, 40))
    found = inspect_encoder(tmp_path / "file.pth")
    assert found["parameters"] == sum(p.numel() for p in encoder.parameters())
    assert ("release" in found["layout"]) == (layout == "release")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("blocks.2.mlp.w12.weight", "blocks.2.mlp.w21.weight"),
        ("pos_embed", "position"),
        ("blocks.0.ls1.gamma", "blocks.0.scale.gamma"),
        ("register_tokens", "registers"),
        ("norm.bias", "last.bias"),
    ],
)
def test_renamed_key_is_named(tmp_path, old, new):
    state = make().state_dict()
    state[new] = state.pop(old)
    torch.save({"teacher": {f"backbone.{key}": value for key, value in state.items()}}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=new.replace(".", r"\.")):
        load_encoder(tmp_path / "file.pth")


def test_every_problem_is_listed(tmp_path):
    state = make().state_dict()
    del state["blocks.1.norm1.weight"]
    state["blocks.3.attn.proj.bias"] = torch.zeros(7)
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"missing blocks\.1\.norm1\.weight; unexpected extra; mis-shaped blocks\.3"):
        load_encoder(tmp_path / "file.pth")


def test_half_precision_and_shards(tmp_path):
    encoder = make()
    entries = list(encoder.state_dict().items())
    folder = tmp_path / "shards"
    folder.mkdir()
    for index in range(2):
        torch.save({"teacher": {f"backbone.{k}": v.half() for k, v in entries[index::2]}}, folder / f"{index}.pth")
    loaded = load_encoder(folder)
    assert torch.equal(loaded.pos_embed, encoder.pos_embed.half().float())
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.save({"teacher": {"backbone.norm.weight": entries[0][1]}}, folder / "2.pth")
    with pytest.raises(UserError, match="another shard"):
        load_encoder(folder)


def test_heads_cannot_be_guessed(tmp_path):
    torch.save(make(dim=48).state_dict(), tmp_path / "file.pth")
    with pytest.raises(UserError, match="give num_heads"):
        load_encoder(tmp_path / "file.pth")
    assert load_encoder(tmp_path / "file.pth", num_heads=4).config["num_heads"] == 4
    assert inspect_encoder(tmp_path / "file.pth")["num_heads"] is None


def test_unsafe_and_missing_files(tmp_path):
    with pytest.raises(UserError, match="no file of weights"):
        load_encoder(tmp_path / "none.pth")
    torch.save({"teacher": {"backbone.x": make()}}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="cannot read weights"):
        load_encoder(tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="cannot read weights"):
        load_encoder(tmp_path / "text.pth")
