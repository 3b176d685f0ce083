"""Images of an archive as networks see them."""

from torch import Tensor

from cxrsynth.data.geometry import to_square
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_image
from cxrsynth.errors import UserError


def readable_square(manifest: Manifest, image_id: str, size: int) -> Tensor | None:
    """An image as a square `[1, S, S]` in [0, 1]; None where its file cannot be read."""
    try:
        return to_square(read_image(manifest.path(image_id)), size)
    except UserError:
        return None
