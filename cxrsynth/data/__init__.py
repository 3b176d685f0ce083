"""Manifest, readers, importers, splits and the datamodule."""

from cxrsynth.data.datamodule import CXRDataModule
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_image, read_stored

__all__ = ["CXRDataModule", "Manifest", "read_image", "read_stored"]
