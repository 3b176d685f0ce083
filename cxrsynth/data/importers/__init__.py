"""Published archives, and plain folders, as manifests: one small reader each, chosen by name here."""

from cxrsynth.data.importers.archive import Archive
from cxrsynth.data.importers.chexpert import read_chexpert
from cxrsynth.data.importers.folders import read_dicom_folder, read_folder
from cxrsynth.data.importers.mimic import read_mimic
from cxrsynth.data.importers.nih import read_nih
from cxrsynth.data.importers.padchest import read_padchest
from cxrsynth.data.importers.vindr import read_vindr

IMPORTERS = {
    "nih": read_nih,
    "vindr": read_vindr,
    "chexpert": read_chexpert,
    "mimic": read_mimic,
    "padchest": read_padchest,
    "folder": read_folder,
    "dicom": read_dicom_folder,
}

__all__ = ["IMPORTERS", "Archive"]
