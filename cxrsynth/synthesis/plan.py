"""The plan: which finding is painted into which healthy source, borrowed from which exemplar."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from cxrsynth.data.manifest import Manifest
from cxrsynth.errors import UserError, first_line
from cxrsynth.files import write_text

COLUMNS = ["id", "group", "source_id", "exemplar_id", "alternates", "finding", "findings", "seed"]
NEEDED = ["id", "group", "source_id", "exemplar_id", "finding", "seed"]


def make_plan(
    manifest: Manifest,
    splits: pd.DataFrame,
    findings: list[str],
    *,
    count: int,
    group_size: int = 8,
    max_per_source: int = 4,
    cross_site: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Plan the images to make, the rarest findings first.

    Each next image goes to the finding that has the fewest positives so far, real and planned together, so the counts
    are levelled from below. Its source is the least used healthy image; its exemplar is the least used image with the
    finding from another patient of the same site and view. Sources and exemplars are training patients, always.

    Args:
        manifest: The archive.
        splits: Table `image_id, patient_id, split`.
        findings: Findings to make.
        count: Number of images to make.
        group_size: Rows that share one sampler forward. Part of the plan because floating point depends on it.
        max_per_source: How often one healthy image may be painted.
        cross_site: Allow an exemplar from another site. Off: the hospital would become the disease.
        seed: Breaks ties and seeds the noise of each row.

    Returns:
        Table with `COLUMNS`, one row an image, ids `syn00000`, `syn00001`, ...

    Raises:
        UserError: No pair of source and exemplar exists for a finding, or there are too few sources for `count`.
    """
    for name, value in (("count", count), ("group_size", group_size), ("max_per_source", max_per_source)):
        if value < 1:
            raise UserError(f"{name} is {value}, but must be at least 1")
    training = set(splits.loc[splits["split"] == "train", "image_id"])
    patients = splits.set_index("image_id")["patient_id"]  # the split's own: clusters where the archive names none
    table = manifest.table.assign(healthy=manifest.healthy, patient_id=manifest.table["image_id"].map(patients))
    has_finding = pd.DataFrame(manifest.targets(findings).numpy() == 1, columns=findings, index=table.index)
    is_training = table["image_id"].isin(training)
    sources = _shuffled(table[is_training & table["healthy"]], seed)
    exemplars = {f: _shuffled(table[is_training & has_finding[f]], seed + 1) for f in findings}
    if count > len(sources) * max_per_source:
        raise UserError(
            f"count is {count}, but {len(sources)} healthy training images painted at most {max_per_source} times give "
            f"{len(sources) * max_per_source}; lower count or raise max_per_source"
        )

    positives = {f: len(exemplars[f]) for f in findings}
    source_uses = dict.fromkeys(sources["image_id"], 0)
    exemplar_uses = {f: dict.fromkeys(exemplars[f]["image_id"], 0) for f in findings}
    rows = []
    for index in range(count):
        finding = min(findings, key=lambda f: (positives[f], findings.index(f)))
        pair = _least_used_pair(
            sources, exemplars[finding], source_uses, exemplar_uses[finding], max_per_source, cross_site
        )
        if pair is None:
            raise UserError(
                f"finding {finding!r}: no healthy training image is left that shares site and view with a training "
                f"image of it from another patient; lower count, raise max_per_source, or drop the finding"
            )
        source_id, exemplar_id = pair
        source_uses[source_id] += 1
        exemplar_uses[finding][exemplar_id] += 1
        positives[finding] += 1
        name = f"syn{index:05d}"
        rows.append((name, index // group_size, source_id, exemplar_id, "", finding, finding, row_seed(seed, name)))
    return pd.DataFrame(rows, columns=COLUMNS)


def row_seed(seed: int, name: str) -> int:
    """The seed of one row's noise: 63 bits that depend on the plan's seed and the row's id alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


def write_plan(path: str | Path, plan: pd.DataFrame) -> Path:
    """Write the plan as CSV, atomically."""
    return write_text(path, plan.to_csv(index=False, lineterminator="\n"))


def read_plan(path: str | Path) -> pd.DataFrame:
    """Read a plan, CSV or Parquet.

    Returns:
        Table with `COLUMNS`; `alternates` is empty and `findings` the finding where the file does not have them.

    Raises:
        UserError: The file is missing or unreadable, lacks a column, names an image twice, or holds a value that cannot
            be one.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"plan {path} does not exist; make it with `cxrsynth run` or `cxrsynth plan`")
    try:
        if path.suffix == ".parquet":
            plan = pd.read_parquet(path)
        else:
            plan = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"plan {path} is not a readable table ({first_line(error)}); make it again") from error
    missing = [c for c in NEEDED if c not in plan]
    if missing:
        raise UserError(f"plan {path} lacks the columns {', '.join(missing)}; it must have {', '.join(NEEDED)}")
    plan["alternates"] = plan.get("alternates", "")
    plan["findings"] = plan.get("findings", plan["finding"])
    for name in ("group", "seed"):
        plan[name] = _whole_numbers(plan[name], f"plan {path}: {name}")
    for name in set(COLUMNS) - {"group", "seed"}:
        plan[name] = plan[name].fillna("").astype(str)
    _check_rows(plan, path)
    return plan[COLUMNS]


def check_training(plan: pd.DataFrame, splits: pd.DataFrame) -> None:
    """Refuse a plan that uses anyone but training patients.

    Raises:
        UserError: It names a source or an exemplar of another split, or of none.
    """
    strange = sorted(named_images(plan) - set(splits.loc[splits["split"] == "train", "image_id"]))
    if strange:
        raise UserError(
            f"the plan names {strange[0]!r} ({len(strange)} such images), which is no training image of the splits; "
            "sources and exemplars must be, or the test leaks: make the plan again with these splits"
        )


def named_images(plan: pd.DataFrame) -> set[str]:
    """Every source and exemplar of a plan, the alternates too."""
    alternates = {name for cell in set(plan["alternates"]) for name in cell.split("|") if name}
    return set(plan["source_id"]) | set(plan["exemplar_id"]) | alternates


def _whole_numbers(values: pd.Series, name: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = numbers.isna() | (numbers < 0) | (numbers % 1 != 0)
    if wrong.any():
        raise UserError(f"{name} is {values[wrong].iloc[0]!r}; give whole numbers from 0")
    return numbers.astype("int64")


def _check_rows(plan: pd.DataFrame, path: Path) -> None:
    twice = plan["id"][plan["id"].duplicated()]
    if len(twice):
        raise UserError(f"plan {path} names {twice.iloc[0]!r} twice; ids must differ")
    strange = plan["id"][~plan["id"].str.fullmatch(r"\w[\w.-]*")]
    if len(strange):
        raise UserError(f"plan {path} has the id {strange.iloc[0]!r}; ids become file names: letters, digits, _ - .")
    for finding, findings in set(zip(plan["finding"], plan["findings"], strict=True)):
        if finding not in findings.split("|"):
            raise UserError(f"plan {path} asks {finding!r}, but its findings are {findings!r}; name it among them")


def _shuffled(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows in an order that depends on the ids and the seed, not on the order of the file."""
    table = table.sort_values("image_id")
    return table.iloc[np.random.default_rng(seed).permutation(len(table))]


def _least_used_pair(
    sources: pd.DataFrame,
    exemplars: pd.DataFrame,
    source_uses: dict[str, int],
    exemplar_uses: dict[str, int],
    max_per_source: int,
    cross_site: bool,
) -> tuple[str, str] | None:
    """The least used source that has an exemplar, with its least used exemplar; None when there is none."""
    by_use = sources["image_id"].map(source_uses).sort_values(kind="stable")
    for position in by_use[by_use < max_per_source].index:
        source = sources.loc[position]
        match = exemplars["patient_id"] != source["patient_id"]
        if not cross_site:
            match &= exemplars["site"] == source["site"]
        match &= exemplars["view"] == source["view"]
        if match.any():
            uses = exemplars.loc[match, "image_id"].map(exemplar_uses).sort_values(kind="stable")
            return source["image_id"], exemplars.loc[uses.index[0], "image_id"]
    return None
