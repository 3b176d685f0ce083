"""Distilling a trained inpainter, guidance included, into one that paints in one to four steps."""

from cxrsynth.inpainting.distil.task import DistilTask

__all__ = ["DistilTask"]
