"""`cxrsynth plan`: the table of images to make, and what they will cost."""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.split import read_splits
from cxrsynth.encoder import load_encoder
from cxrsynth.errors import UserError, first_line
from cxrsynth.synthesis.cost import describe, estimate_cost
from cxrsynth.synthesis.likeness import Likeness, measure_likeness
from cxrsynth.synthesis.plan import make_plan, write_plan


def plan(
    out: str,
    run: str | None = None,
    manifest: str | None = None,
    splits: str | None = None,
    findings: list[str] | None = None,
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
    encoder: str | None = None,
    seed: int = 0,
    solver: str = "midpoint",
    steps: int = 10,
    guidance: float = 2.0,
    attention: str | None = None,
    inpainting: str | None = None,
    overwrite: bool = False,
) -> str:
    """Write the table of images to make and say what they will cost; nothing is painted.

    Args:
        out: The plan's file, .csv or .parquet.
        run: A run folder, which gives manifest, splits, findings and checkpoints where they are not named here.
        manifest: The archive's table.
        splits: Its splits.csv; sources and exemplars are training patients.
        findings: Findings to make.
        count: Number of images, for rule level.
        rule: level (rarest first), count, until or prevalence; the last three need targets.
        targets: Finding to images to make (count), positives (until) or share (prevalence) to reach; * = all others.
        group_size: Rows that share one forward of the sampler.
        max_per_source: How often one healthy image may be painted.
        max_per_patient: How often one patient may be.
        max_per_exemplar: How often one diseased image may lend its map.
        alternates: Further exemplars of each row, for the case that the first cannot be registered.
        co_occurring: Ask for all findings that the exemplar has.
        cross_site: Allow source and exemplar of different sites.
        cross_view: Allow source and exemplar of different views.
        only: Limits of the sources, such as {sex: [F], age: [20, 40]}.
        balance: Level positives over combinations of sex, age, view and site.
        age_bands: Ages at which a new band begins.
        weights: What likeness of source and exemplar counts: sex, age, view, body, similarity, quality and use.
        encoder: Checkpoint in whose space similarity is measured; default the run's attention checkpoint.
        seed: Another seed, another plan.
        solver: As it will be painted with, for the cost.
        steps: As there.
        guidance: As there.
        attention: Checkpoint, for the cost; default the run's.
        inpainting: As there.
        overwrite: Replace a plan that is there already.

    Returns:
        One sentence about what was written.
    """
    path = Path(out)
    if path.exists() and not overwrite:
        raise UserError(f"out {out} is there already; give another file, or overwrite=true to replace it")
    given = {} if run is None else _of_run(Path(run))
    archive = _archive(manifest, given)
    split_table = read_splits(_required("splits", splits, given))
    asked = findings or given.get("findings") or archive.findings
    checkpoints = {
        "attention": attention or given.get("attention"),
        "inpainting": inpainting or given.get("inpainting"),
    }
    table = make_plan(
        archive,
        split_table,
        asked,
        count=count,
        rule=rule,
        targets=targets,
        group_size=group_size,
        max_per_source=max_per_source,
        max_per_patient=max_per_patient,
        max_per_exemplar=max_per_exemplar,
        alternates=alternates,
        co_occurring=co_occurring,
        cross_site=cross_site,
        cross_view=cross_view,
        only=only,
        balance=balance,
        age_bands=age_bands,
        weights=weights,
        likeness=likeness_for(weights, archive, split_table, encoder or checkpoints["attention"]),
        seed=seed,
    )
    print(_summary(table))
    if table.empty:
        return f"{out}: nothing, the targets are met already"
    if all(checkpoints.values()):
        paths = {name: str(file) for name, file in checkpoints.items()}
        print(describe(estimate_cost(table, archive, **paths, solver=solver, steps=steps, guidance=guidance)))
    write_plan(path, table)
    return f"{out}: {len(table)} images of {table['source_id'].nunique()} sources"


def likeness_for(
    weights: dict[str, float] | None, archive: Manifest, splits: pd.DataFrame, encoder: str | None
) -> Likeness | None:
    """Measure the training images where a weight asks for it; None where none does."""
    wanted = {name for name in ("body", "similarity", "quality") if (weights or {}).get(name)}
    if not wanted:
        return None
    if "similarity" in wanted and encoder is None:
        raise UserError("weights: similarity is measured in an encoder's space; give encoder, its checkpoint")
    training = archive.select(ids=set(splits["image_id"][splits["split"] == "train"]))
    network = load_encoder(encoder) if encoder is not None and "similarity" in wanted else None
    return measure_likeness(training, network)


def _of_run(folder: Path) -> dict[str, Any]:
    """What a run folder says of its archive, by the names of the command's options."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        manifest = folder / config["manifest"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(
            f"run {folder} has no readable config.yaml ({first_line(error)}); give a folder that `cxrsynth run` made"
        ) from error
    files = {name: folder / "checkpoints" / f"{name}.ckpt" for name in ("attention", "inpainting")}
    found = {name: str(file) for name, file in files.items() if file.is_file()}
    about = {name: config.get(name) for name in ("findings", "views", "sites")}
    return {**about, **found, "manifest": str(manifest), "splits": str(folder / "splits.csv")}


def _archive(manifest: str | None, given: dict[str, Any]) -> Manifest:
    archive = Manifest.load(_required("manifest", manifest, given))
    return archive.select(views=given.get("views"), sites=given.get("sites")) if manifest is None else archive


def _required(name: str, value: str | None, given: dict[str, Any]) -> str:
    found = value or given.get(name)
    if found is None:
        raise UserError(f"{name} is not given; give --{name} FILE, or --run FOLDER of a run that has it")
    return str(found)


def _summary(table: pd.DataFrame) -> str:
    counts = table["findings"].str.split("|").explode().value_counts()
    lines = [f"  {finding:<24} {number:>8,d}" for finding, number in counts.items()]
    return "\n".join([f"{len(table):,d} images to make, in {table['group'].nunique():,d} groups", *lines])
