"""Registration of two images by Demons, and the transport of a map from one patient to another."""

from cxrsynth.registration.field import (
    compose,
    exponential,
    from_grid_sample,
    from_itk,
    from_rows_first,
    invert,
    jacobian_determinant,
    to_grid_sample,
    to_itk,
    to_rows_first,
)
from cxrsynth.registration.register import ACCURATE, QUICK, Registration, RegistrationResult, register
from cxrsynth.registration.transport import Alignment, TransportResult, align_patients, carry, transport

__all__ = [
    "ACCURATE",
    "QUICK",
    "Alignment",
    "Registration",
    "RegistrationResult",
    "TransportResult",
    "align_patients",
    "carry",
    "compose",
    "exponential",
    "from_grid_sample",
    "from_itk",
    "from_rows_first",
    "invert",
    "jacobian_determinant",
    "register",
    "to_grid_sample",
    "to_itk",
    "to_rows_first",
    "transport",
]
