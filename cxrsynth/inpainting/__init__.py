"""Flow-matching inpainting: one velocity field, guided by region and condition."""

from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.inpaint import inpaint
from cxrsynth.inpainting.task import InpaintingTask, load_inpainter

__all__ = ["Condition", "InpaintingTask", "inpaint", "load_inpainter"]
