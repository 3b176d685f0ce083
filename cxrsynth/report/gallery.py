"""Which images the page shows, and their five panels (Figure 1 of the paper)."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_image
from cxrsynth.errors import UserError
from cxrsynth.files import inside
from cxrsynth.report import figures
from cxrsynth.report.acceptance import CHECKS
from cxrsynth.report.collect import RunFolder

TYPICAL, WORST, REFUSED = 8, 4, 8  # rows; typical ones at least one a finding, and as many for each
Record = dict[str, Any]
Changes = dict[str, list[tuple[str, float, float]]]  # by image: scorer, before, after


@dataclass(frozen=True)
class Row:
    """An image of the gallery.

    Attributes:
        record: Its line of `provenance.jsonl` or row of `refused.csv`.
        panels: Titles and data URIs; empty when the files cannot be read.
        changes: Scorer, score before and score after, of the finding asked for.
        problem: Why it was refused or cannot be shown.
    """

    record: Record
    panels: list[tuple[str, str]]
    changes: list[tuple[str, float, float]] = field(default_factory=list)
    problem: str = ""


def galleries(run: RunFolder) -> dict[str, list[Row]]:
    """Rows of "typical", "worst" and "refused" images, as far as the run has them."""
    changes = asked_changes(run.effects)
    typical, worst = choose(run.records or [], changes)
    archive = None if run.manifest is None else Manifest.load(run.manifest)
    painted = {record["id"]: record for record in run.records or []}
    refused = (
        []
        if run.refused is None
        else _spread([{str(k): v for k, v in r.items()} for r in run.refused.to_dict("records")])[:REFUSED]
    )
    return {
        "typical": [_made(run, record, changes) for record in typical],
        "worst": [_made(run, record, changes) for record in worst],
        "refused": [
            replace(_made(run, painted[record["id"]], changes), problem=str(record["refused"]))
            if record["id"] in painted
            else _refused(archive, record)
            for record in refused
        ],
    }


def foreign_gallery(images: Manifest, archive: Manifest) -> dict[str, list[Row]]:
    """Rows of "typical" images of another generator, labels in turn; with their sources where the manifest names them.

    Args:
        images: The synthetic images.
        archive: The real images.
    """
    table = images.table
    records = [
        {"id": row["image_id"], "finding": row["labels"], **{k: row.get(k, "") for k in ("source_id", "exemplar_id")}}
        for row in table.to_dict("records")
    ]
    rows = []
    for record in choose(records, {})[0]:
        try:
            made = read_image(images.path(record["id"]))[0].numpy()
            panels = [("result", figures.grey(made))]
            path = _path(archive, str(record["source_id"]))
            source = made if path is None else read_image(path)[0].numpy()
            if path is not None and source.shape == made.shape:
                panels = [("source", figures.grey(source)), *panels, ("difference", figures.difference(source, made))]
        except UserError as error:
            rows.append(Row(record, [], problem=str(error)))
        else:
            rows.append(Row(record, panels))
    return {"typical": rows, "worst": [], "refused": []}


def asked_changes(effects: pd.DataFrame | None) -> Changes:
    """Scores of the asked finding before and after, by image id; the oracle's first."""
    if effects is None:
        return {}
    asked = effects if "scored" not in effects else effects[effects["scored"] == effects["finding"]]
    rows = asked.dropna(subset=["before", "after"]).sort_values(
        "scorer", key=lambda names: names != "oracle", kind="stable"
    )
    changes: Changes = {}
    for identity, scorer, before, after in rows[["id", "scorer", "before", "after"]].to_numpy().tolist():
        changes.setdefault(str(identity), []).append((str(scorer), float(before), float(after)))
    return changes


def choose(records: list[Record], changes: Changes) -> tuple[list[Record], list[Record]]:
    """The typical images, findings in turn, and the worst ones.

    Typical is near the middle of a finding's images by the change of the asked score (of the first scorer); worst is
    the smallest change of all. Without scores the first images of each finding are shown, and none is called worst.
    """

    def change(record: Record) -> float:
        return changes[record["id"]][0][2] - changes[record["id"]][0][1]

    scored = sorted((r for r in records if r["id"] in changes), key=lambda r: (change(r), r["id"]))
    worst = scored[:WORST] if len(scored) > WORST else []
    rest = scored[len(worst) :] + [r for r in records if r["id"] not in changes]
    groups: list[list[Record]] = []
    for name in sorted({r["finding"] for r in rest}):
        group = [r for r in rest if r["finding"] == name]
        middle = len(group) // 2 if changes else 0
        by_distance = sorted(range(len(group)), key=lambda i: (abs(i - middle), i))
        groups.append([group[i] for i in by_distance])
    each = max(1, TYPICAL // max(1, len(groups)))
    return _in_turn([group[:each] for group in groups]), worst


def _in_turn(groups: list[list[Record]]) -> list[Record]:
    return [group[turn] for turn in range(max(map(len, groups), default=0)) for group in groups if turn < len(group)]


def _spread(refused: list[Record]) -> list[Record]:
    """Refused rows, first reasons in turn so that each kind is seen; of a kind the farthest from its limit first."""

    def beyond(record: Record) -> float:
        score, limit = record.get("score"), record.get("limit")
        return 0.0 if score is None or limit is None or score != score or limit != limit else abs(score - limit)

    ordered = sorted(refused, key=lambda record: -beyond(record))
    kinds = sorted({_check(r["refused"]) for r in refused})
    return _in_turn([[r for r in ordered if _check(r["refused"]) == kind] for kind in kinds])


def _check(reason: str) -> str:
    """The check that a reason names first, or the reason without its numbers."""
    name = str(reason).partition(":")[0]
    return name if name in CHECKS else reason_kind(reason)


def reason_kind(reason: str) -> str:
    """A reason with "…" for its numbers, so that equal reasons are counted together."""
    return re.sub(r"-?\d+(\.\d+)?", "…", str(reason))


def _made(run: RunFolder, record: Record, changes: Changes) -> Row:
    scores = changes.get(record["id"], [])
    try:
        made = read_image(inside(run.path, record["image"]))[0].numpy()
        region = read_image(inside(run.path, record["region"]))[0].numpy() > 0.5
        panels = [("region", figures.outlined(made, region)), ("result", figures.grey(made))]
        if run.manifest is not None:
            source = read_image(inside(run.manifest.parent, record["source_path"]))[0].numpy()
            panels[0] = ("region", figures.outlined(source, region))
            panels = [("source", figures.grey(source)), *panels, ("difference", figures.difference(source, made))]
            if "map" in record:
                weight = read_image(inside(run.path, record["map"]))[0].numpy()
                panels.insert(1, ("map", figures.attention(source, weight)))
    except (UserError, KeyError) as error:
        return Row(record, [], scores, str(error))
    return Row(record, panels, scores)


def _refused(archive: Manifest | None, record: Record) -> Row:
    panels = []
    for title in ("source", "exemplar"):
        path = _path(archive, str(record.get(f"{title}_id")))
        if path is not None:
            panels.append((title, figures.grey(read_image(path)[0].numpy())))
    return Row(record, panels, problem=str(record["refused"]))


def _path(archive: Manifest | None, image_id: str) -> Path | None:
    if archive is None or image_id not in set(archive.table["image_id"]):
        return None
    return archive.path(image_id)
