"""Patches of the training patients' lesions, and how like them a painted patch is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrsynth.errors import UserError
from cxrsynth.files import write_atomic

CHUNK = 8192  # lesions compared at a time, so that memory does not grow with the archive


@dataclass(frozen=True)
class Lesions:
    """Standardised patches (see `measures.patch_of`), one a lesion.

    Attributes:
        patches: float16 `[M, P]`.
        images: `[M]`, the image of each.
        patients: `[M]`, the patient of each.
    """

    patches: NDArray[np.float16]
    images: NDArray[np.str_]
    patients: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.patches)

    def nearest(self, patch: NDArray[np.floating], patient: str | None = None) -> tuple[float, str]:
        """Largest normalised cross-correlation with any lesion of another patient, and the image it lies in.

        Args:
            patch: `[P]`, standardised.
            patient: Whose lesions are left out.

        Returns:
            -1 and an empty name where there is no lesion to compare with.
        """
        best, name = -1.0, ""
        for start in range(0, len(self), CHUNK):
            part = slice(start, start + CHUNK)
            likeness = self.patches[part].astype(np.float32) @ patch.astype(np.float32)
            if patient is not None:
                likeness[self.patients[part] == patient] = -1.0
            index = int(likeness.argmax())
            if likeness[index] > best:
                best, name = float(likeness[index]), str(self.images[start + index])
        return best, name

    def save(self, path: Path) -> Path:
        """Write an `.npz` file."""
        return write_atomic(path, lambda file: np.savez(file, **vars(self)))

    @classmethod
    def load(cls, path: Path) -> "Lesions":
        """Read what `save` wrote.

        Raises:
            UserError: The file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["patches"], file["images"], file["patients"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}); remove it, and it is made again") from error
