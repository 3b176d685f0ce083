"""`cxrsynth card`: a dataset card in Markdown, for those who are handed the images."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from cxrsynth import __version__
from cxrsynth.errors import UserError
from cxrsynth.files import write_text
from cxrsynth.report.acceptance import acceptance
from cxrsynth.report.answers import percent
from cxrsynth.report.collect import RunFolder, open_run
from cxrsynth.synthesis.outputs import accepted
from cxrsynth.synthesis.selection import LIMITS_FILE, read_limits

HERE = Path(__file__).parent
AGES = (0, 20, 40, 60, 80)
TERMS = ("license", "licence", "terms", "readme", "data_use")  # how files that state them usually begin


def write_card(run_folder: str | Path) -> Path:
    """Write `card.md`: what the images are, whence, how many, by which models, under which terms, and their limits.

    Args:
        run_folder: A run folder, or what `cxrsynth synthesize` wrote.

    Returns:
        Path of the card.

    Raises:
        UserError: The folder holds no images.
    """
    run = open_run(run_folder)
    if run.records is None or not (run.path / "synthetic.csv").is_file():
        raise UserError(f"{run_folder} holds no synthetic images yet; make them with `cxrsynth run` or `synthesize`")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    return write_text(run.path / "card.md", environment.get_template("card.md.j2").render(**facts(run)))


def facts(run: RunFolder) -> dict[str, Any]:
    """Everything the card says."""
    records = run.records or []
    kept = accepted(records)
    table = pd.read_csv(run.path / "synthetic.csv", dtype={"sex": str, "view": str, "labels": str})
    models: dict[str, str] = {}
    for record in records:
        models |= record.get("checkpoints", {})
    limits = read_limits(run.path) if (run.path / LIMITS_FILE).is_file() else None
    if limits:
        models["scorer"] = limits["scorer_sha256"]
    folder = None if run.manifest is None else run.manifest.resolve().parent
    return {
        "version": __version__,
        "name": run.path.resolve().name,
        "archive": "an unknown archive" if folder is None else folder.name,
        "simulated": bool(run.config.get("phantom")),
        "terms": [] if folder is None else sorted(p.name for p in folder.glob("*") if p.name.lower().startswith(TERMS)),
        "images": len(kept),
        "refused_images": len(records) - len(kept),
        "sources": len({record["source_id"] for record in kept}),
        "counts": {
            "Finding": _counts(table["labels"].str.split("|").explode()),
            "Sex": _counts(table["sex"]),
            "Age": _counts(_bands(table["age"])),
            "View": _counts(table["view"]),
        },
        "acceptance": acceptance(run),
        "limits": limits,
        "models": dict(sorted(models.items())),
        "settings": {name: records[0].get(name) for name in ("solver", "steps", "warp", "guidance")} if records else {},
    }


def _bands(ages: pd.Series) -> pd.Series:
    names = [f"{low} to {high - 1}" for low, high in pairwise(AGES)] + [f"{AGES[-1]} or older"]
    return pd.cut(pd.to_numeric(ages), [*AGES, float("inf")], right=False, labels=names).astype(object)


def _counts(values: pd.Series) -> dict[str, int]:
    counts = values.fillna("unknown").astype(str).value_counts().sort_index()
    return {str(name): int(count) for name, count in counts.items()}
