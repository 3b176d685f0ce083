"""The study's page, and the same figures as JSON and Markdown."""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cxrsynth.data.manifest import Manifest
from cxrsynth.data.reading import read_image
from cxrsynth.errors import UserError
from cxrsynth.files import write_json, write_text
from cxrsynth.report import figures as pictures
from cxrsynth.report.answers import Answer
from cxrsynth.report.collect import open_run
from cxrsynth.report.gallery import Row, foreign_gallery, galleries
from cxrsynth.report.page import page_template
from cxrsynth.report.study_answers import gain, study_answers

MEASURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity_at_specificity_0.9": "Sensitivity at specificity 0.9",
    "f1": "F1 at validation thresholds",
    "fnr": "Missed (FNR) at these thresholds",
    "fpr": "False alarms (FPR) at these thresholds",
    "brier": "Brier score",
    "brier_rescaled": "Brier score, temperature scaled",
    "ece": "Calibration error",
    "ece_rescaled": "Calibration error, temperature scaled",
}
DISTANCES = ("frechet", "kernel", "precision", "recall", "density", "coverage")


def write_study_page(folder: str | Path, figures: dict[str, Any]) -> Path:
    """Write `report.html`, `report.json` and `report.md` into a study's folder.

    The page needs no other file and makes no request.

    Args:
        folder: The study's folder.
        figures: What `cxrsynth.study.results.collect` returned.

    Returns:
        Path of the page.
    """
    folder = Path(folder)
    headline = study_answers(figures)
    page = page_template("study.html.j2").render(
        **figures,
        answers=headline,
        pairs=_pairs(folder, figures["worst_pairs"]),
        loss=pictures.loss_multiples(_losses(folder, figures), figures["arms"]["real"]["val_prior_loss"]),
        gallery=_gallery(folder, figures["shown"]),
        card=_card(folder, figures["shown"]),
        few_shot=pictures.few_shot(figures["curves"]) if figures["curves"] else None,
        measures=MEASURES,
        distances=DISTANCES,
        config_text=yaml.safe_dump(figures["config"], sort_keys=False, allow_unicode=True),
    )
    write_json(folder / "report.json", {"headline": [vars(answer) for answer in headline], **figures})
    write_text(folder / "report.md", _markdown(figures, headline))
    return write_text(folder / "report.html", page)


def _pairs(folder: Path, worst: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The suspicious pairs with their pictures; those whose files are gone are left out."""
    shown = []
    for pair in worst:
        try:
            images = [pictures.grey(read_image(folder / path)[0].numpy()) for path in pair["paths"]]
        except UserError:
            continue
        shown.append({**pair, "images": images})
    return shown


def _losses(folder: Path, figures: dict[str, Any]) -> dict[str, list[pd.DataFrame]]:
    """Logged losses of every training with all real images, by arm; those of a first half come first."""
    return {arm: [table for number in range(of["trainings"])
                  if len(table := _logged(folder / "arms" / "all" / arm / f"seed{number}" / "logs"))]
            for arm, of in figures["arms"].items()}  # fmt: skip


def _logged(logs: Path) -> pd.DataFrame:
    parts: list[pd.DataFrame] = []
    for name in ("before", "classification"):
        file = logs / name / "metrics.csv"
        if file.is_file():
            table = pd.read_csv(file)
            parts.append(table.assign(step=table["step"] + (parts[0]["step"].max() + 1 if parts else 0)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"step": []})


def _gallery(folder: Path, shown: dict[str, Any]) -> dict[str, list[Row]]:
    """Images of the run that made them, or of another generator's manifest; empty where they are gone."""
    try:
        if shown["run"] is not None:
            return galleries(open_run(folder / shown["run"]))
        if shown["images"] is not None:
            return foreign_gallery(Manifest.load(folder / shown["images"]), Manifest.load(folder / shown["archive"]))
    except UserError:
        pass
    return {"typical": [], "worst": [], "refused": []}


def _card(folder: Path, shown: dict[str, Any]) -> str | None:
    """The images' dataset card, where they came with one."""
    file = None if shown["images"] is None else (folder / shown["images"]).parent / "card.md"
    return file.read_text("utf-8") if file is not None and file.is_file() else None


def _markdown(figures: dict[str, Any], headline: list[Answer]) -> str:
    """Headline, verdicts and arms."""
    lines = [f"# {figures['title']}: did synthetic images help?", ""]
    lines += [f"- **{answer.question}** {answer.figure}. {answer.sentence}" for answer in headline]
    lines += ["", "| finding | over real only | over the strongest control | verdict |", "| --- | --- | --- | --- |"]
    for row in figures["verdicts"]:
        lines.append(
            f"| {row['finding']} | {gain(row['over_real'])} | {gain(row['over_control'])} | {row['verdict']} |"
        )
    lines += ["", "| arm | mean AUROC | over real only |", "| --- | --- | --- |"]
    for arm in figures["arms"].values():
        area = arm["metrics"]["auroc"][-1]
        lines.append(f"| {arm['title']} | {area['estimate']:.3f} | {gain(arm['gain'])} |")
    lines += ["", "Not tested:", *(f"- {note}" for note in figures["not_tested"])]
    return "\n".join([*lines, "", "Research software; not for clinical use.", ""])
