"""NIH ChestX-ray14: `Data_Entry_2017_v2020.csv`, `BBox_List_2017.csv`, images in `images*/`."""

from pathlib import Path

import pandas as pd

from cxrsynth.data.importers.archive import PICTURES, Archive, age, files_by_name, find_table, read_table, sex


def read_nih(source: Path) -> Archive:
    """Read NIH ChestX-ray14 (Wang et al. 2017). The official test list, if there, becomes the test split."""
    entries = read_table(
        source,
        "Data_Entry_2017_v2020.csv",
        "Data_Entry_2017.csv",
        columns=("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position"),
    )
    files = files_by_name(source, PICTURES)
    names = entries["Image Index"]
    sexes = entries["Patient Sex"] if "Patient Sex" in entries else entries["Patient Gender"]
    test_list = find_table(source, "test_list.txt")
    test = set(test_list.read_text().split()) if test_list else set()
    table = pd.DataFrame(
        {
            "image_id": names.map(lambda name: Path(name).stem),
            "path": names.map(files).fillna(""),
            "labels": entries["Finding Labels"],
            "patient_id": "NIH_" + entries["Patient ID"].str.zfill(5),
            "view": entries["View Position"],
            "sex": sexes.map(sex),
            "age": entries["Patient Age"].map(age),
            "site": "NIH",
            "split": ["test" if name in test else "" for name in names],
        }
    )
    return Archive(table, _boxes(source))


def _boxes(source: Path) -> pd.DataFrame:
    if find_table(source, "BBox_List_2017.csv") is None:
        return Archive(pd.DataFrame()).boxes
    rows = read_table(source, "BBox_List_2017.csv", columns=("Image Index", "Finding Label"))
    # the header reads "Bbox [x,y,w,h]", which is four columns
    x, y, width, height = (rows.iloc[:, i].astype(float) for i in (2, 3, 4, 5))
    ids = rows["Image Index"].map(lambda name: Path(name).stem)
    corners = {"x_min": x, "y_min": y, "x_max": x + width, "y_max": y + height}
    return pd.DataFrame({"image_id": ids, "label": rows["Finding Label"], **corners})
