"""A simulated chest archive with known truth, its lesions for real films too, and an oracle that measures them."""

from cxrsynth.data.phantom.anatomy import Anatomy, Lung
from cxrsynth.data.phantom.archive import simulate, write_phantom
from cxrsynth.data.phantom.lesions import FINDINGS, plant
from cxrsynth.data.phantom.patient import Exposure, Patient
from cxrsynth.data.phantom.render import Lesion, Phantom, render

__all__ = [
    "FINDINGS",
    "Anatomy",
    "Exposure",
    "Lesion",
    "Lung",
    "Patient",
    "Phantom",
    "plant",
    "render",
    "simulate",
    "write_phantom",
]
