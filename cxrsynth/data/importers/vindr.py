"""VinDr-CXR (`annotations/*.csv`) and VinBigData (`train.csv`): one row an annotation, several readers an image."""

from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from cxrsynth.data.importers.archive import DICOM, PICTURES, Archive, files_by_name, find_table, read_table
from cxrsynth.data.labels import is_no_finding
from cxrsynth.data.manifest import BOX_COLUMNS
from cxrsynth.errors import UserError

RULES = ("any", "majority", "consensus")
READER = "rad_id"


def read_vindr(source: Path, rule: str = "majority") -> Archive:
    """Read VinDr-CXR or VinBigData.

    Annotation rows are never images: the readers' opinions on an image are joined into one row by the rule. An image
    gets the findings that any reader, more than half of them, or all of them named. Findings that some but not all
    named are unknown under "consensus", absent under "majority". An image without a finding is "No Finding" if
    no reader (any, consensus) or at most half of them (majority) named one, else its labels are unknown.

    Args:
        source: The archive's folder.
        rule: "any", "majority" or "consensus".

    Returns:
        The archive, with `readers` and `abnormal_votes` for `check`. Every reader's boxes are kept.
    """
    if rule not in RULES:
        raise UserError(f"rule is {rule!r}; use any, majority or consensus")
    parts = [part for part in (_part(source, "train", ""), _part(source, "test", "test")) if part]
    if not parts:
        raise UserError(
            f"source {source} has neither train.csv nor annotations_train.csv; give the archive's top folder"
        )
    files = files_by_name(source, PICTURES | DICOM, stem=True)
    tables = []
    for readings, split in ((part[0], part[2]) for part in parts):
        table = pd.DataFrame([_join(image_id, named, rule) for image_id, named in sorted(_opinions(readings).items())])
        table["path"] = table.image_id.map(files).fillna("")
        tables.append(table.assign(split=split, site="VinDr", view="PA"))
    return Archive(pd.concat(tables, ignore_index=True), pd.concat([part[1] for part in parts], ignore_index=True))


def _part(source: Path, name: str, split: str) -> tuple[pd.DataFrame, pd.DataFrame, str] | None:
    """Readings (`image_id, rad_id, class_name`), boxes and the split of the train or test part."""
    opinions, annotations = f"image_labels_{name}.csv", f"annotations_{name}.csv"
    if find_table(source, annotations):
        marks = read_table(source, annotations, columns=("image_id", "class_name", "x_min"))
    elif name == "train" and find_table(source, "train.csv"):
        marks = read_table(source, "train.csv", columns=("image_id", "class_name", READER, "x_min"))
    else:
        return None
    readings = marks
    if find_table(source, opinions):
        wide = read_table(source, opinions, columns=("image_id",))
        keys = [column for column in ("image_id", READER) if column in wide]
        readings = wide.melt(keys, var_name="class_name")
        readings = readings[pd.to_numeric(readings["value"], errors="coerce") == 1]
    if READER not in readings:
        readings = readings.assign(**{READER: "consensus"})
    boxes = marks[marks.x_min != ""].rename(columns={"class_name": "label"})[list(BOX_COLUMNS)]
    boxes = boxes.astype(dict.fromkeys(BOX_COLUMNS[2:], float))
    return readings[["image_id", READER, "class_name"]], boxes, split


def _opinions(readings: pd.DataFrame) -> dict[str, dict[str, set[str]]]:
    """image_id to reader to the findings that the reader named."""
    opinions: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for image_id, reader, name in readings.itertuples(index=False):
        opinions[image_id][reader] |= set() if is_no_finding(name) else {name}
    return opinions


def _join(image_id: str, opinions: dict[str, set[str]], rule: str) -> dict[str, object]:
    readers = len(opinions)
    votes = Counter(name for names in opinions.values() for name in names)
    abnormal = sum(map(bool, opinions.values()))
    needed = {"any": 1, "majority": readers // 2 + 1, "consensus": readers}[rule]
    findings = sorted(name for name, count in votes.items() if count >= needed)
    disputed = sorted(set(votes) - set(findings)) if rule == "consensus" else []
    healthy = abnormal <= (readers // 2 if rule == "majority" else 0)
    return {
        "image_id": image_id,
        "labels": "|".join(findings) or ("No Finding" if healthy else ""),
        "unknown": "|".join(disputed),
        "readers": "|".join(sorted(opinions)) if readers > 1 else "",
        "abnormal_votes": abnormal,
    }
