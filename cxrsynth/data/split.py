"""Splits by patient: seeded, stratified for rare findings, honouring what an archive gives."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrsynth.data.duplicates import near_duplicate_clusters
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.signatures import read_signatures
from cxrsynth.errors import UserError, first_line
from cxrsynth.files import write_bytes

SPLITS = ("train", "val", "test")
SPELLINGS = {
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "training": "train",
    "testing": "test",
}
FRACTIONS = (0.7, 0.1, 0.2)
COLUMNS = ["image_id", "patient_id", "split"]


def make_splits(manifest: Manifest, fractions: Sequence[float] | None = None, seed: int = 0) -> pd.DataFrame:
    """Put every patient into train, val or test.

    Rows whose `split` is given keep it. Other patients go to train and the splits that the archive does not give; so
    an archive with an official test part gets a val part out of the rest. Images without a patient_id are grouped into
    clusters of near-identical images, and a cluster is treated as a patient.

    Args:
        manifest: The whole archive (select views or sites afterwards, so that one split serves all).
        fractions: Shares of train, val and test.
        seed: Another seed, another split.

    Returns:
        A table `image_id, patient_id, split`, sorted by image_id.

    Raises:
        UserError: Bad fractions, an unknown split name, or a patient in two splits.
    """
    shares = _check_fractions(FRACTIONS if fractions is None else fractions)
    table = pd.DataFrame({"image_id": manifest.table.image_id, "patient_id": _patients(manifest)})
    table["split"] = [_spelled(name) for name in manifest.table.split]
    given = table[table.split != ""]
    check_patients(given, "the manifest's split column")
    decided = dict(zip(given.patient_id, given.split, strict=True))
    groups = _groups(manifest)
    if decided:
        shares = [
            0.0 if name in decided.values() and name != "train" else s for name, s in zip(SPLITS, shares, strict=True)
        ]
        shares = [s / sum(shares) for s in shares] if sum(shares) else [1.0, 0.0, 0.0]
    open_rows = ~table.patient_id.isin(list(decided)).to_numpy()
    decided |= _stratify(table.patient_id.to_numpy()[open_rows], groups[open_rows], shares, seed)
    table["split"] = table.patient_id.map(decided)
    return table.sort_values("image_id", ignore_index=True)


def write_splits(table: pd.DataFrame, path: str | Path) -> Path:
    """Write `splits.csv`: `image_id, patient_id, split`."""
    return write_bytes(path, table[COLUMNS].to_csv(index=False, lineterminator="\n").encode())


def read_splits(path: str | Path, refuse: bool = True) -> pd.DataFrame:
    """Read what `write_splits` wrote, or a table like it.

    Args:
        path: The file.
        refuse: Whether to refuse a table with a patient in two splits.

    Raises:
        UserError: The file is missing or lacks a column, an image is there twice, or a patient is in two splits.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False).fillna("")  # rows may be short
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise UserError(f"splits {path} cannot be read ({first_line(error)}); make it again") from error
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(f"splits {path} lacks the column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    table["split"] = [_spelled(name) for name in table.split]
    twice = table.image_id[table.image_id.duplicated()]
    if len(twice):
        raise UserError(f"splits {path} has image_id {twice.iloc[0]!r} more than once; each image has one split")
    if refuse:
        check_patients(table, f"splits {path}")
    return table[COLUMNS]


def check_patients(table: pd.DataFrame, name: str) -> None:
    """Refuse a table that has a patient in two splits.

    Raises:
        UserError: It has one.
    """
    torn = patients_across_splits(table)
    if torn:
        raise UserError(
            f"{name} has patient {torn[0]!r} in two splits ({len(torn)} such patients); keep each patient in one"
        )


def patients_across_splits(table: pd.DataFrame) -> list[str]:
    """Patients who have images in more than one split, sorted. Empty ids are no patient."""
    known = table[(table.patient_id != "") & (table.split != "")]
    counts = known.groupby("patient_id").split.nunique()
    return sorted(counts.index[counts > 1])


def _check_fractions(fractions: Sequence[float]) -> list[float]:
    if len(fractions) != 3 or min(fractions) < 0 or fractions[0] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"fractions are {list(fractions)}; give three shares for train, val and test that add up to 1")
    return list(fractions)


def _spelled(name: str) -> str:
    name = name.strip().lower()
    name = SPELLINGS.get(name, name)
    if name not in ("", *SPLITS):
        raise UserError(f"split {name!r} is unknown; use train, val or test")
    return name


def _patients(manifest: Manifest) -> list[str]:
    patients = manifest.table.patient_id.tolist()
    nameless = [i for i, patient in zip(manifest.table.image_id, patients, strict=True) if not patient]
    if not nameless:
        return patients
    clusters = near_duplicate_clusters(read_signatures(manifest.select(ids=nameless)))
    return [p or clusters[i] for i, p in zip(manifest.table.image_id, patients, strict=True)]


def _groups(manifest: Manifest) -> np.ndarray:
    """Membership `[N, groups]` of images in what is to be shared out evenly: findings, healthy, sites; last, all."""
    findings = np.nan_to_num(manifest.targets(manifest.findings).numpy())
    sites = pd.get_dummies(manifest.table.site).to_numpy(float)
    return np.column_stack([findings, manifest.healthy, sites, np.ones(len(manifest))])


def _stratify(patients: np.ndarray, groups: np.ndarray, shares: list[float], seed: int) -> dict[str, str]:
    """Greedy stratification of groups of images (after Sechidis et al. 2011, with patients in place of samples).

    The rarest group that still has open patients is dealt first; each of its patients, those with most images
    first, goes to the split that lacks most of that group, of equals to the one that lacks most images.
    """
    names, owner = np.unique(patients.astype(str), return_inverse=True)
    counts = np.zeros((len(names), groups.shape[1]))
    np.add.at(counts, owner, groups)
    # shuffled by a hash, not by a random generator, so that no library version changes the split
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}:{names[i]}".encode()).digest())
    lacking = np.outer(shares, counts.sum(0))  # [3, groups]
    never = np.array(shares) == 0
    assigned: dict[str, str] = {}
    open_patients = set(order)
    while open_patients:
        left = counts[sorted(open_patients)].sum(0)
        group = int(np.argmin(np.where(left > 0, left, np.inf)))
        members = [i for i in order if i in open_patients and counts[i, group] > 0]
        for i in sorted(members, key=lambda i: -counts[i, group]):
            wish = np.where(never, -np.inf, lacking[:, group])
            best = np.flatnonzero(wish >= wish.max() - 1e-9)
            target = int(best[np.argmax(lacking[best, -1])])
            lacking[target] -= counts[i]
            assigned[str(names[i])] = SPLITS[target]
        open_patients -= set(members)
    return assigned
