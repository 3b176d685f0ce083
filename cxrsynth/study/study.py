"""`cxrsynth study`: every arm, every training, then the statistics once, and the page."""

import hashlib
import json
import time
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from rich.console import Console

from cxrsynth import __version__
from cxrsynth.classification.task import ClassificationTask
from cxrsynth.data.datamodule import CXRDataModule
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.split import make_splits, write_splits
from cxrsynth.errors import UserError
from cxrsynth.evaluation.compare import SMALLEST_GAIN
from cxrsynth.evaluation.predictions import predict_split, write_predictions
from cxrsynth.files import sha256_file, write_json, write_text
from cxrsynth.pipeline import quieten
from cxrsynth.pipeline import run as run_pipeline
from cxrsynth.report.study_page import write_study_page
from cxrsynth.run_folder import Run
from cxrsynth.stages import fit
from cxrsynth.study.agreement import AgreementSettings
from cxrsynth.study.agreement import agreement as compare_texts
from cxrsynth.study.arms import Arm, Recipe, make_arm
from cxrsynth.study.material import Material, open_images, refuse_leaks, refuse_same_judge
from cxrsynth.study.results import collect
from cxrsynth.study.segmentation import SegmentationSettings
from cxrsynth.study.segmentation import segmentation as compare_segmenters

STUDIED = ("real", "duplicates", "oversampling", "synthetic")  # what the few-shot curves show
PARTS: dict[str, Any] = {"segmentation": SegmentationSettings, "agreement": AgreementSettings}
JUDGED = ("val", "test")


@dataclass(frozen=True)
class Job:
    """One training of one arm.

    Attributes:
        arm: The arm.
        seed: Number of the training.
        material: What the arm is made of, the number of real positives included.
        folder: Where its record and predictions are.
        settings: `model`, `data` and `trainer` arguments that all arms share.
        external: Manifest of an archive that nothing is trained on, or None.
    """

    arm: Arm
    seed: int
    material: Material
    folder: Path
    settings: dict[str, Any]
    external: Path | None

    @property
    def predictions(self) -> dict[str, Path]:
        """Prediction tables by what was judged."""
        names = (*JUDGED, *(("external",) if self.external else ()))
        return {name: self.folder / f"predictions_{name}.csv" for name in names}

    def fingerprint(self, recipe: Recipe) -> str:
        """SHA-256 of all that the training depends on."""
        parts: list[Any] = [self.material.fingerprint(), self.settings, self.seed, __version__]
        step: Recipe | None = recipe
        while step is not None:
            extra = None if step.extra is None else self.material.digest(step.extra)
            parts.append([extra, sorted(step.copies.items()), step.model, step.data])
            step = step.before
        parts.append(None if self.external is None else sha256_file(self.external))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def done(self, fingerprint: str) -> bool:
        """Whether the record carries this fingerprint and the predictions are there, unchanged."""
        file = self.folder / "record.json"
        record = json.loads(file.read_text()) if file.is_file() else {}
        return record.get("fingerprint") == fingerprint and all(
            path.is_file() and sha256_file(path) == record["outputs"].get(path.name)
            for path in self.predictions.values()
        )


def study(
    out: str,
    arms: list[str],
    classification: dict[str, Any],
    run: str | None = None,
    pipeline: str | None = None,
    manifest: str | None = None,
    splits: str | None = None,
    findings: list[str] | None = None,
    images: list[str] | str | None = None,
    external: str | None = None,
    seeds: int = 3,
    positives: list[int] | None = None,
    scorer: str | None = None,
    judge: str | None = None,
    keep: float = 0.5,
    segmentation: dict[str, Any] | None = None,
    agreement: dict[str, Any] | None = None,
    reference: str | None = None,
    primary: str = "synthetic",
    smallest_gain: float = SMALLEST_GAIN,
    draws: int = 2000,
    seed: int = 0,
    threads: int = 2,
    part: str = "1/1",
) -> Path:
    """Judge synthetic images: train a classifier with them and with every control, and compare on real test patients.

    Started again, it goes on where it stopped, arm by arm and training by training.

    Args:
        out: The study's folder; gets report.html, report.md and report.json.
        arms: Names of arms (see `cxrsynth.study.arms`); `synthetic@0.5` adds half as many images as are real.
        classification: `model`, `data` and `trainer` arguments of the classification task, the same for every arm;
            `trainer` gives `max_steps`.
        run: Run folder that made the images; its archive, split, findings and checkpoints are used.
        pipeline: Configuration of `cxrsynth run`, to make the run where there is none.
        manifest: The archive, where there is no run.
        splits: Its split by patient; None = a new one.
        findings: What is classified; None = the run's, or all that the archive names.
        images: Manifests of synthetic images made by any generator, one a seed of the generator; None = the run's.
        external: Manifest of an archive that nothing was trained on, judged besides.
        seeds: Trainings of each arm.
        positives: Few-shot curve: also with so many real positives of each finding.
        scorer: Checkpoint that filters images; None = the run's scorer.ckpt, else its attention.ckpt.
        judge: Checkpoint that scores images; None = the run's classification.ckpt. Never the scorer.
        keep: Share of the images that the filter keeps.
        segmentation: Trains segmenters of the marked findings as well, with real images and with the primary arm's
            (see `SegmentationSettings`); None = none.
        agreement: Trains a model of images and texts that tells how often an image shows what was asked (see
            `AgreementSettings`); None = none.
        reference: A published model's predictions, a table `image_id, prob_FINDING, ...`, judged on the same images.
        primary: The arm that the verdict is about.
        smallest_gain: Smallest gain of AUROC worth having.
        draws: Bootstrap draws of patients.
        seed: Seed of what is drawn at random.
        threads: CPU threads.
        part: "1/4" trains the first of four parts and writes no page, so that several machines fill one folder.

    Returns:
        Path of report.html.

    Raises:
        UserError: Something cannot be used, or would leak.
    """
    config = dict(locals())
    segmenter, reader = _settings("segmentation", segmentation), _settings("agreement", agreement)
    chosen = [make_arm(name) for name in arms]
    names = dict(zip(arms, chosen, strict=True))
    if "real" not in names or primary not in names or not any(arm.control for arm in chosen):
        raise UserError(
            f"arms are {', '.join(arms)}; give real, the primary arm {primary!r}, and a control such as duplicates"
        )
    number, parts = _part(part)
    torch.set_num_threads(threads)
    quieten()
    material = _material(config)
    refuse_leaks(material, Path(external) if external else None)
    refuse_same_judge(material.scorer, _judge(config))
    jobs, missing = _jobs(config, names, material)
    console = Console()
    for index, job in enumerate(jobs):
        if index % parts == number - 1:
            title = f"[{index + 1}/{len(jobs)}] {job.folder.relative_to(material.folder / 'arms')}"
            console.print(f"{title}: {_train(job)}", highlight=False)
    if parts > 1:
        return material.folder
    write_text(material.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    say = partial(console.print, highlight=False)
    downstream = {
        "segmentation": segmenter and compare_segmenters(material, names, primary, segmenter, draws, say),
        "agreement": reader and compare_texts(material, reader, draws, say),
    }
    figures = collect(config, names, material, jobs, missing, _judge(config), downstream)
    return write_study_page(material.folder, figures)


def _settings(name: str, given: dict[str, Any] | None) -> Any:
    """Settings of a part of the study that is left out unless they are given; `{}` = its defaults."""
    if given is None:
        return None
    try:
        return PARTS[name](**given)
    except TypeError as error:
        known = ", ".join(one.name for one in fields(PARTS[name]))
        raise UserError(f"{name} is {given}; give settings of {known}, or null to leave it out") from error


def _material(config: dict[str, Any]) -> Material:
    """Archive, split and images; makes the run and the split where there are none."""
    folder, run = Path(config["out"]), config["run"]
    settings: dict[str, Any] = {}
    if run is not None:
        file = Path(run) / "config.yaml"
        if config["pipeline"] is not None:
            run_pipeline(**{**yaml.safe_load(Path(config["pipeline"]).read_text()), "run": run})
        if not file.is_file():
            raise UserError(f"run {run} holds no run; give pipeline, the configuration that makes it")
        settings = yaml.safe_load(file.read_text())
    manifest = Path(run) / settings["manifest"] if run is not None else Path(config["manifest"] or "-")
    if not manifest.is_file():
        raise UserError(f"manifest {manifest} does not exist; give run, or the manifest of an archive")
    splits = Path(run) / "splits.csv" if run is not None else Path(config["splits"] or folder / "splits.csv")
    if run is None and config["splits"] is None:
        write_splits(make_splits(Manifest.load(manifest), seed=config["seed"]), splits)
    images = [config["images"]] if isinstance(config["images"], str) else config["images"]
    scorers = [] if run is None else [Path(run) / "checkpoints" / f"{name}.ckpt" for name in ("scorer", "attention")]
    own_scorer = next((path for path in scorers if path.is_file()), None)
    return Material(
        folder=folder,
        manifest_path=manifest.resolve(),
        splits_path=splits.resolve(),
        findings=Manifest.load(manifest).resolve(config["findings"] or settings.get("findings")),
        image_manifests=open_images(images, None if run is None else Path(run)),
        run=None if run is None else Path(run),
        size=config["classification"]["data"].get("size", 128),
        seed=config["seed"],
        views=settings.get("views"),
        sites=settings.get("sites"),
        scorer=Path(config["scorer"]) if config["scorer"] else own_scorer,
        keep=config["keep"],
        phantom=settings.get("phantom"),
    )


def _judge(config: dict[str, Any]) -> Path | None:
    if config["judge"]:
        return Path(config["judge"])
    return None if config["run"] is None else Path(config["run"]) / "checkpoints" / "classification.ckpt"


def _jobs(config: dict[str, Any], names: dict[str, Arm], material: Material) -> tuple[list[Job], dict[str, str]]:
    """All trainings, and the arms that cannot be made with what lacks."""
    missing = {
        name: f"needs {', '.join(sorted(set(arm.needs) - material.has()))}"
        for name, arm in names.items()
        if not set(arm.needs) <= material.has()
    }
    for name in ("real", config["primary"]):
        if name in missing:
            raise UserError(f"arm {name} {missing[name]}; give run or images")
    jobs = []
    for limit in (None, *(config["positives"] or ())):
        part = material if limit is None else material.limited(limit)
        for name, arm in names.items():
            if name in missing or (limit is not None and name not in (*STUDIED, config["primary"])):
                continue
            where = material.folder / "arms" / ("all" if limit is None else f"positives_{limit}") / name
            jobs += [
                Job(
                    arm,
                    seed,
                    part,
                    where / f"seed{seed}",
                    config["classification"],
                    Path(config["external"]).resolve() if config["external"] else None,
                )
                for seed in range(config["seeds"])
            ]
    return jobs, missing


def _train(job: Job) -> str:
    """Train and predict, if that is not done; says what happened."""
    recipe = job.arm.recipe(job.material, job.seed)
    fingerprint = job.fingerprint(recipe)
    if job.done(fingerprint):
        return "done before"
    begin = time.monotonic()
    tables, figures = learn(job, recipe, fingerprint)
    for name, table in tables.items():
        write_predictions(table, job.predictions[name])
    seconds = round(time.monotonic() - begin, 1)
    outputs = {path.name: sha256_file(path) for path in job.predictions.values()}
    record = {"fingerprint": fingerprint, "seconds": seconds, "figures": figures, "outputs": outputs}
    write_json(job.folder / "record.json", record)
    return f"{seconds:.0f} s"


def learn(job: Job, recipe: Recipe, fingerprint: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Train the network of one job and predict with it.

    Returns:
        Predictions by what is judged ("val", "test", "external"), and figures of the training.
    """
    trainer = job.settings["trainer"]
    model, first = recipe.model, 0
    if recipe.before is not None:
        first = trainer["max_steps"] // 2
        _fit(job, recipe.before, "before", fingerprint, {**trainer, "max_steps": first}, {})
        model = {**model, "start": str(_run(job, trainer).checkpoint("before"))}
        trainer = {**trainer, "max_steps": trainer["max_steps"] - first}
    figures = _fit(job, recipe, "classification", fingerprint, trainer, model)
    figures["steps"] += first
    checkpoint = _run(job, trainer).checkpoint("classification")
    run = _run(job, trainer)
    tables = {}
    for name in JUDGED:
        options = {**run.config["classification"]["data"], "predict_split": name}
        tables[name] = predict_split(checkpoint, CXRDataModule(**run.datamodule(options)))
    if job.external is not None:
        options = {key: job.settings["data"][key] for key in ("size", "batch_size") if key in job.settings["data"]}
        data = CXRDataModule(str(job.external), findings=job.material.findings, predict_split="all", **options)
        tables["external"] = predict_split(checkpoint, data)
    return tables, figures


def _fit(
    job: Job, recipe: Recipe, name: str, fingerprint: str, trainer: dict[str, Any], model: dict[str, Any]
) -> dict[str, Any]:
    data = {**recipe.data, **({} if recipe.extra is None else {"extra_manifest": str(recipe.extra)})}
    if recipe.copies:
        rows = pd.DataFrame(sorted(recipe.copies.items()), columns=["image_id", "copies"])
        data["copies"] = str(write_text(job.folder / f"copies_{name}.csv", rows.to_csv(index=False)))
    model = {**recipe.model, **model, "findings": job.material.findings}
    run = _run(job, trainer)
    return fit(run, name, fingerprint, ClassificationTask, section="classification", model=model, data=data,
               monitor="val/auroc")  # fmt: skip


def _run(job: Job, trainer: dict[str, Any]) -> Run:
    """The job's folder as a small run folder."""
    material = job.material
    config = {
        "manifest": str(material.manifest_path),
        "findings": material.findings,
        "views": material.views,
        "sites": material.sites,
        "seed": material.seed + job.seed,
        "classification": {
            "model": job.settings["model"],
            "data": {**job.settings["data"], "splits": str(material.splits_path)},
            "trainer": trainer,
        },
    }
    return Run(job.folder, config)


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UserError(f"part is {text!r}; give one such as 2/4, the second of four")
    return int(number), int(count)
