"""Synthetic diseased chest X-rays from healthy ones, and the proof whether they help."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cxrsynth")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"
