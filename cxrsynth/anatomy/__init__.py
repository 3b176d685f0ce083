"""Where the lungs are, for everything that wants to stay inside them."""

from cxrsynth.anatomy.masks import chest_field, tidy
from cxrsynth.anatomy.segmenter import LIMITS, Segmenter, allowed, load_segmenter, save_segmenter, segment

__all__ = ["LIMITS", "Segmenter", "allowed", "chest_field", "load_segmenter", "save_segmenter", "segment", "tidy"]
