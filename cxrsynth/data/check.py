"""The data report: what an archive holds, and what is wrong with it."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.stats import chi2_contingency
from sklearn.metrics import roc_auc_score

from cxrsynth.data.duplicates import exact_duplicates, near_duplicates
from cxrsynth.data.labels import is_no_finding
from cxrsynth.data.manifest import Manifest, split_labels
from cxrsynth.data.odd import odd_images
from cxrsynth.data.signatures import read_signatures
from cxrsynth.data.split import patients_across_splits

AGES = (0, 18, 40, 60, 80, 121)
PANEL_SIZE = 20  # images that a panel must have read to be counted
SHOWN = 10


@dataclass
class PanelProbe:
    """Whether the readers' names alone tell how an image was read.

    Attributes:
        shares: Panel to share of its images that any of its readers called abnormal.
        auroc: How well a panel's share predicts that its image is abnormal; 0.5 = not at all.
        p_value: Chi-squared test of equal shares.
    """

    shares: dict[str, float]
    auroc: float
    p_value: float


@dataclass
class CheckReport:
    """What `check_manifest` found.

    Attributes:
        images: Number of rows.
        patients: Number of different patient_ids.
        counts: Table name ("finding", "view", "sex", "age", "site", "split") to value to number of images.
        contradictions: Images that are both without and with a finding.
        strays: Images that boxes or masks name but the table does not.
        unreadable: image_id to what is wrong.
        odd: image_id to reasons.
        exact: Groups of images with equal pixels.
        near: Pairs of nearly equal images and the correlation of their detail.
        torn_patients: Patients in more than one split.
        torn_duplicates: Pairs of equal or nearly equal images in different splits.
        panels: The probe of reader panels, if the archive names readers.
    """

    images: int
    patients: int
    counts: dict[str, dict[str, int]]
    contradictions: list[str]
    strays: list[str]
    unreadable: dict[str, str]
    odd: dict[str, list[str]]
    exact: list[list[str]]
    near: list[tuple[str, str, float]]
    torn_patients: list[str]
    torn_duplicates: list[tuple[str, str]]
    panels: PanelProbe | None

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return asdict(self)


def check_manifest(manifest: Manifest, splits: pd.DataFrame | None = None) -> CheckReport:
    """Read every image of an archive and look for what would spoil an experiment.

    Args:
        manifest: The archive.
        splits: `image_id, patient_id, split`; None = the manifest's own columns.
    """
    table = manifest.table
    signatures = read_signatures(manifest)
    site = dict(zip(table.image_id, table.site, strict=True))
    exact = exact_duplicates(signatures)
    same = {(a, b) for group in exact for a in group for b in group}
    near = [pair for pair in near_duplicates(signatures) if pair[:2] not in same]
    splits = table if splits is None else splits
    split_of = dict(zip(splits.image_id, splits.split, strict=True))
    pairs = [(group[0], other) for group in exact for other in group[1:]] + [pair[:2] for pair in near]
    named = set(manifest.boxes.image_id) | set(manifest.masks.image_id)
    return CheckReport(
        images=len(table),
        patients=table.patient_id[table.patient_id != ""].nunique(),
        counts=count(manifest, split_of),
        contradictions=[i for i, cell in zip(table.image_id, table.labels, strict=True) if _contradicts(cell)],
        strays=sorted(named - set(table.image_id)),
        unreadable=signatures.unreadable,
        odd=odd_images(signatures.ids, signatures.thumbnails, [site[i] for i in signatures.ids]),
        exact=exact,
        near=near,
        torn_patients=patients_across_splits(splits),
        torn_duplicates=[(a, b) for a, b in pairs if split_of.get(a, "") != split_of.get(b, "")],
        panels=probe_panels(table),
    )


def count(manifest: Manifest, split_of: dict[str, str]) -> dict[str, dict[str, int]]:
    """Images by label, view, sex, age, site and split; the most frequent first."""
    table = manifest.table
    labels = pd.Series([name for cell in table.labels for name in split_labels(cell) or ["unknown"]], dtype=object)
    bands = [f"{low}-{high - 1}" for low, high in pairwise(AGES)]
    ages = pd.cut(table.age, AGES, right=False, labels=bands)
    columns = {
        "finding": labels,
        "view": table["view"],
        "sex": table.sex,
        "age": ages.astype(object).fillna(""),
        "site": table.site,
        "split": table.image_id.map(split_of).fillna(""),
    }
    return {
        name: {str(value) or "unknown": int(n) for value, n in column.value_counts().items()}
        for name, column in columns.items()
    }


def probe_panels(table: pd.DataFrame) -> PanelProbe | None:
    """Ask whether panels of readers differ in how often they call an image abnormal.

    In VinDr-CXR they do so sharply: which readers saw an image then nearly tells its label, before anyone looks at it.

    Args:
        table: A manifest's table with `readers` (names joined by `|`) and `abnormal_votes`.
    """
    if "readers" not in table or "abnormal_votes" not in table:
        return None
    seen = table[table.readers.fillna("") != ""]
    sizes = seen.groupby("readers").image_id.transform("size")
    seen = seen[sizes >= PANEL_SIZE]
    abnormal = pd.to_numeric(seen.abnormal_votes) > 0
    if abnormal.nunique() < 2 or seen.readers.nunique() < 2:
        return None
    shares = abnormal.groupby(seen.readers).mean().sort_values()
    return PanelProbe(
        shares={str(panel): float(share) for panel, share in shares.items()},
        auroc=float(roc_auc_score(abnormal, seen.readers.map(shares))),
        p_value=float(chi2_contingency(pd.crosstab(seen.readers, abnormal)).pvalue),
    )


def print_report(report: CheckReport, console: Console | None = None) -> None:
    """Print a report for a person."""
    console = console or Console()
    console.print(f"[bold]{report.images} images of {report.patients} patients[/bold]")
    for name, counts in report.counts.items():
        table = Table(name, "images", "share")
        for value, number in counts.items():
            table.add_row(value, str(number), f"{number / max(report.images, 1):.1%}")
        console.print(table)
    _print_list(console, "unreadable", [f"{i}: {why}" for i, why in report.unreadable.items()])
    _print_list(console, "odd", [f"{i}: {', '.join(why)}" for i, why in report.odd.items()])
    _print_list(console, "exact duplicates", [" = ".join(group) for group in report.exact])
    _print_list(console, "near duplicates", [f"{a} ~ {b} ({value:.3f})" for a, b, value in report.near])
    _print_list(console, "labels both with and without a finding", report.contradictions)
    _print_list(console, "boxes or masks of images that are not in the table", report.strays)
    _print_list(console, "patients in two splits", report.torn_patients)
    _print_list(console, "duplicates in two splits", [f"{a} ~ {b}" for a, b in report.torn_duplicates])
    if report.panels:
        shares = np.array(list(report.panels.shares.values()))
        console.print(
            f"[bold]reader panels[/bold]: {len(shares)} panels call {shares.min():.0%} to {shares.max():.0%} of their "
            f"images abnormal; the panel alone predicts it with AUROC {report.panels.auroc:.3f} "
            f"(chi-squared test of equal shares: p = {report.panels.p_value:.2g})"
        )


def _print_list(console: Console, name: str, lines: list[str]) -> None:
    console.print(f"[bold]{name}[/bold]: {len(lines) or 'none'}")
    for line in lines[:SHOWN]:
        console.print(f"  {line}", highlight=False, markup=False)
    if len(lines) > SHOWN:
        console.print(f"  and {len(lines) - SHOWN} more")


def _contradicts(cell: str) -> bool:
    return len({is_no_finding(name) for name in split_labels(cell)}) == 2
