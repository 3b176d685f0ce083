"""The plan: which finding is painted into which healthy source, borrowed from which exemplar."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxrsynth.data.manifest import Manifest
from cxrsynth.errors import UserError, first_line
from cxrsynth.files import write_atomic, write_text
from cxrsynth.synthesis.candidates import check_weights, find_candidates
from cxrsynth.synthesis.goals import Goals
from cxrsynth.synthesis.likeness import Likeness
from cxrsynth.synthesis.matching import Exemplars, Sources
from cxrsynth.synthesis.pairing import Pair, Pairing

COLUMNS = ["id", "group", "source_id", "exemplar_id", "alternates", "finding", "findings", "seed"]
NEEDED = ["id", "group", "source_id", "exemplar_id", "finding", "seed"]


def make_plan(
    manifest: Manifest,
    splits: pd.DataFrame,
    findings: list[str],
    *,
    count: int | None = None,
    rule: str = "level",
    targets: dict[str, float] | None = None,
    group_size: int = 8,
    max_per_source: int = 4,
    max_per_patient: int | None = None,
    max_per_exemplar: int | None = None,
    alternates: int = 2,
    co_occurring: bool = False,
    cross_site: bool = False,
    cross_view: bool = False,
    only: dict[str, list[str | float]] | None = None,
    balance: list[str] | None = None,
    age_bands: list[float] | None = None,
    weights: dict[str, float] | None = None,
    likeness: Likeness | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Plan the images to make, the rarest findings first unless other targets are given.

    An image's source is the least used healthy image; its exemplar is the image with the finding that is most like it,
    where every use so far counts as unlikeness (see `weights`). Both are training patients, always, and two of them.

    Args:
        manifest: The archive.
        splits: Table `image_id, patient_id, split`.
        findings: Findings to make.
        count: Number of images to make, for rule "level".
        rule: "level": each next image goes to the finding that has the fewest positives so far, real and planned
            together, so the counts are levelled from below. "count", "until", "prevalence": as `targets` says.
        targets: For each finding the images to make of it ("count"), the positives it shall have, real and planned
            together ("until"), or its share of all training images then ("prevalence"); `*` = all that are not named.
        group_size: Rows that share one sampler forward. Part of the plan because floating point depends on it.
        max_per_source: How often one healthy image may be painted, each time with another exemplar while there are any.
        max_per_patient: How often a patient's images may be painted in all; None = no limit.
        max_per_exemplar: How often one image may lend its map; None = no limit.
        alternates: Exemplars that are named for the case that the first cannot be registered.
        co_occurring: Ask for all of `findings` that the exemplar has, so that they occur together as in the archive.
        cross_site: Allow an exemplar from another site. Off: the hospital would become the disease.
        cross_view: Allow an exemplar of another view.
        only: Limits the sources: `sex`, `view` or `site` to a list of values, `age` to [youngest, first too old].
        balance: Of `sex`, `age`, `view`, `site`: positives are levelled over their combinations, empty cells first.
        age_bands: Ages at which a new band begins; default 40, 60.
        weights: Numbers of 0 or more for `sex`, `age`, `view`, `body` (size of the lungs), `similarity` (in the
            encoder's space), `quality` (correlation before registration) and `use`. 1 means that another sex, 20 years,
            another view, a tenth of the chest's size, two random images, no correlation at all, or one use more count
            alike. Default: sex, age and use 1, the others 0.
        likeness: Measurements of the training images, for `body`, `similarity` and `quality`.
        seed: Breaks ties and seeds the noise of each row.

    Returns:
        Table with `COLUMNS`, one row an image, ids `syn00000`, `syn00001`, ...

    Raises:
        UserError: An argument out of range, or no pair of source and exemplar is left before the targets are met.
    """
    _check_limits(count, group_size, max_per_source, max_per_patient, max_per_exemplar, alternates)
    findings = manifest.resolve(findings)
    weighed = check_weights(weights)
    candidates = find_candidates(
        manifest,
        splits,
        findings,
        same=[name for name, crossed in (("site", cross_site), ("view", cross_view)) if not crossed],
        only=only or {},
        balance=balance or [],
        age_bands=[40, 60] if age_bands is None else age_bands,
        weights=weighed,
        likeness=likeness,
        seed=seed,
    )
    positives = dict(zip(findings, candidates.has.sum(0).tolist(), strict=True))
    goals = Goals(findings, rule, targets, count, positives, len(candidates.ids))
    if not co_occurring or rule == "level":  # else fewer may do
        named = "count" if rule == "level" else "targets"
        _check_sources(goals.total, named, int(candidates.sources.sum()), max_per_source)
    sources = Sources(candidates, max_per_source, max_per_patient)
    uses = np.zeros(len(candidates.ids), np.int64)
    exemplars = [
        Exemplars(candidates, k, uses, max_per_exemplar, weighed["use"], weighed["quality"])
        for k in range(len(findings))
    ]
    pairing = Pairing(candidates, sources, exemplars, uses, 1 + alternates, co_occurring)
    chosen: list[tuple[str, Pair]] = []
    while (finding := goals.next()) is not None:
        pair = pairing.next(findings.index(finding))
        if pair is None:
            raise UserError(
                f"finding {finding!r}: after {len(chosen)} images no healthy training image is left that shares site "
                "and view with a training image of it from another patient; lower count or targets, raise "
                "max_per_source, max_per_patient or max_per_exemplar, or drop the finding"
            )
        goals.add([findings[k] for k in pair.findings])
        chosen.append((finding, pair))
    return _table(candidates.ids, chosen, findings, group_size, seed)


def row_seed(seed: int, name: str) -> int:
    """The seed of one row's noise: 63 bits that depend on the plan's seed and the row's id alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


def write_plan(path: str | Path, plan: pd.DataFrame) -> Path:
    """Write the plan atomically, as Parquet or CSV by its name."""
    if Path(path).suffix == ".parquet":
        return write_atomic(path, lambda file: plan.to_parquet(file, index=False))
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
    except Exception as error:  # pandas and pyarrow raise many kinds on damaged files
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
    texts = values.astype(str).str.strip()  # not as floats, which would round a seed
    wrong = ~texts.str.fullmatch(r"[0-9]{1,19}")
    numbers = [0 if bad else int(text) for text, bad in zip(texts, wrong, strict=True)]
    wrong |= np.array([number >= 2**63 for number in numbers], bool)
    if wrong.any():
        raise UserError(f"{name} is {str(values[wrong].iloc[0])[:40]!r}; give whole numbers from 0 to 2^63 - 1")
    return pd.Series(numbers, values.index, dtype="int64")


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


def _check_limits(
    count: int | None,
    group_size: int,
    max_per_source: int,
    max_per_patient: int | None,
    max_per_exemplar: int | None,
    alternates: int,
) -> None:
    limits = {"count": count, "group_size": group_size, "max_per_source": max_per_source}
    for name, value in {**limits, "max_per_patient": max_per_patient, "max_per_exemplar": max_per_exemplar}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}, but must be at least 1")
    if not 0 <= alternates <= 16:
        raise UserError(f"alternates is {alternates}; give 0 to 16")


def _check_sources(images: int, argument: str, sources: int, max_per_source: int) -> None:
    if images > sources * max_per_source:
        raise UserError(
            f"{argument} is {images} images, but {sources} healthy training images painted at most {max_per_source} "
            f"times give {sources * max_per_source}; lower {argument} or raise max_per_source"
        )


def _table(
    ids: NDArray[Any], chosen: list[tuple[str, Pair]], findings: list[str], group_size: int, seed: int
) -> pd.DataFrame:
    digits = max(5, len(str(len(chosen) - 1)))  # so that names sort as they were made
    rows = []
    for index, (finding, pair) in enumerate(chosen):
        name = f"syn{index:0{digits}d}"
        first, *others = (str(ids[row]) for row in pair.exemplars)
        asked = "|".join(findings[k] for k in pair.findings)
        source, group = ids[pair.source], index // group_size
        rows.append((name, group, source, first, "|".join(others), finding, asked, row_seed(seed, name)))
    return pd.DataFrame(rows, columns=COLUMNS)
