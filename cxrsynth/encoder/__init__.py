"""The vision transformer, its pretraining and its files."""

from cxrsynth.encoder.checkpoint import inspect_encoder, load_encoder
from cxrsynth.encoder.preprocess import normalise, preprocess_chexfound
from cxrsynth.encoder.vit import ViT

__all__ = ["ViT", "inspect_encoder", "load_encoder", "normalise", "preprocess_chexfound"]
