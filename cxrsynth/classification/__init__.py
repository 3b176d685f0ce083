"""Multi-label classification of findings: EfficientNet and its task."""

from cxrsynth.classification.efficientnet import EfficientNet
from cxrsynth.classification.pretrained import load_pretrained

__all__ = ["EfficientNet", "load_pretrained"]
