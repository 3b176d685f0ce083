"""Agreement with the CheXFound authors' own classes, from files that they would have published."""

import json

import pytest
import torch

from cxrsynth.attention import load_glori
from cxrsynth.encoder import load_encoder


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.shape == want.shape
    assert (got - want).norm() / want.norm() <= 1e-5


def golden_folders(shared):
    return sorted(path.parent for path in (shared / "golden").glob("*/config.json"))


def test_forward_matches_the_authors(shared):
    load_file = pytest.importorskip("safetensors.torch").load_file
    folders = golden_folders(shared)
    if not folders:
        pytest.skip("no golden folder")
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        expected = load_file(folder / "expected.safetensors")
        encoder = load_encoder(
            folder / "teacher_checkpoint.pth",
            num_heads=config["heads"],
            interpolate_offset=config["offset"],
            interpolate_antialias=config["antialias"],
        )
        assert not encoder.training
        head = load_glori(folder / "glori.pth")
        with torch.no_grad():
            tokens = encoder.tokens(expected["image"])
            features = encoder.intermediate(expected["image"], n=4)
            logits, attention = head(features), head.attention(features)
        close(tokens.cls, expected["cls_norm"])
        close(tokens.patches, expected["patch_norm"])
        if config["reg"]:
            close(tokens.registers, expected["reg_norm"])
        for index, (patches, cls) in enumerate(features):
            close(patches, expected[f"block{index}_patch"])
            close(cls, expected[f"block{index}_cls"])
        close(logits, expected["logits"])
        close(attention, expected["attention"])
