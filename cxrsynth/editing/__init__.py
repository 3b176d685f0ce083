"""One image at a time: a window of any file painted at the working resolution, exact outside the region."""

from cxrsynth.editing.edit import Edited, edit

__all__ = ["Edited", "edit"]
