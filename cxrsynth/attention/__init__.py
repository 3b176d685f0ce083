"""GLoRI attention: where in the image a finding is seen."""

from cxrsynth.attention.checkpoint import CXR_LT_40, load_glori
from cxrsynth.attention.glori import GLoRI

__all__ = ["CXR_LT_40", "GLoRI", "load_glori"]
