"""A KL-regularised autoencoder of chest X-rays, in whose latents an inpainter can paint."""

from cxrsynth.autoencoder.autoencoder import Autoencoder
from cxrsynth.autoencoder.checkpoint import load_autoencoder, save_autoencoder
from cxrsynth.autoencoder.task import AutoencoderTask

__all__ = ["Autoencoder", "AutoencoderTask", "load_autoencoder", "save_autoencoder"]
