"""One self-contained page, and the same figures as JSON and Markdown."""

from pathlib import Path
from typing import Any

import jinja2
import yaml

from cxrsynth.files import write_json, write_text
from cxrsynth.report import answers, figures
from cxrsynth.report.answers import Answer
from cxrsynth.report.collect import open_run
from cxrsynth.report.gallery import galleries
from cxrsynth.report.summary import summarise

ARMS = {"real": "real images", "synthetic": "real and synthetic images"}
METHODS = {"attention": "attention", "average_map": "average map", "centre": "centre"}
METRICS = {
    "auprc": "AUPRC",
    "sensitivity_at_specificity_0.9": "Sensitivity at specificity 0.9",
    "brier": "Brier score (lower is better)",
    "ece": "Calibration error (lower is better)",
}
HERE = Path(__file__).parent


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html`, `report.json` and `report.md` into a run folder.

    The page needs no other file and makes no request. Parts that were not run are named as such.

    Args:
        run_folder: What `cxrsynth run` wrote, whole or in part.

    Returns:
        Path of the page.

    Raises:
        UserError: The folder holds no run, or a file of it is damaged.
    """
    run = open_run(run_folder)
    summary = summarise(run)
    headline = answers.answers(summary)
    page = page_template("template.html.j2").render(
        **summary,
        answers=headline,
        gallery=galleries(run),
        curves=figures.loss_curves(run.curves),
        command=run.config.get("command"),
        config_text=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        names={"arms": ARMS, "methods": METHODS, "metrics": METRICS, "judges": answers.JUDGES},
    )
    write_json(run.path / "report.json", {"headline": [vars(answer) for answer in headline], **summary})
    write_text(run.path / "report.md", markdown(summary, headline))
    return write_text(run.path / "report.html", page)


def page_template(name: str) -> jinja2.Template:
    """A template of this room with the filters and the style that every page uses."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {key: getattr(answers, key) for key in ("number", "signed", "percent", "listing")}
    css = (HERE / "style.css").read_text("utf-8")
    environment.globals |= {"interval": answers.interval, "axis": Axis, "css": css}
    return environment.get_template(name)


def markdown(summary: dict[str, Any], headline: list[Answer]) -> str:
    """The headline as Markdown."""
    lines = [f"# {summary['run']}: painted findings, measured", ""]
    lines += [f"- **{answer.question}** {answer.figure}. {answer.sentence}" for answer in headline]
    if summary["not_run"]:
        lines += ["", f"Not run: {answers.listing(summary['not_run'])}."]
    return "\n".join([*lines, "", "Research software; not for clinical use.", ""])


class Axis:
    """A horizontal axis in percent of a cell's width, for the intervals drawn inside the tables.

    Args:
        values: All values that must fit, None ignored.
        include: Values that the axis must show, such as 0.
    """

    def __init__(self, values: list[float | None], include: list[float]) -> None:
        known = [value for value in values if value is not None] + include
        self.low, self.high = min(known), max(known)
        margin = 0.06 * (self.high - self.low) or 1.0
        self.low, self.high = self.low - margin, self.high + margin
        self.include = include

    def at(self, value: float) -> str:
        """Position of a value."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"
