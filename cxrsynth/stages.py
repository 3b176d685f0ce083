"""The stages of `cxrsynth run`: what each needs, reads, makes and reports."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from cxrsynth.attention.localisation import localise
from cxrsynth.attention.maps import collect_maps
from cxrsynth.attention.task import GLoRITask
from cxrsynth.callbacks import progress
from cxrsynth.classification.task import ClassificationTask
from cxrsynth.data.datamodule import CXRDataModule
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.phantom import write_phantom
from cxrsynth.data.split import make_splits, read_splits, write_splits
from cxrsynth.encoder.task import DINOTask
from cxrsynth.evaluation.judges import score_effects
from cxrsynth.evaluation.predictions import predict_split, write_predictions
from cxrsynth.files import write_bytes, write_text
from cxrsynth.inpainting.task import InpaintingTask
from cxrsynth.inpainting.weights_file import find_inpainter
from cxrsynth.precision import trainer_precision
from cxrsynth.report import write_report
from cxrsynth.report.card import write_card
from cxrsynth.run_folder import Figures, Run, Stage
from cxrsynth.synthesis.datamodule import SynthesisDataModule
from cxrsynth.synthesis.outputs import TABLES as SYNTHESIS_TABLES
from cxrsynth.synthesis.plan import make_plan, write_plan
from cxrsynth.synthesis.planning import likeness_for
from cxrsynth.synthesis.scorer import check_independent
from cxrsynth.synthesis.selection import LIMITS_FILE, Selection
from cxrsynth.synthesis.task import SynthesisTask
from cxrsynth.synthesis.writer import SynthesisWriter

LOGGER = "lightning.pytorch.loggers.CSVLogger"


def fit(
    run: Run,
    name: str,
    fingerprint: str,
    task: type[L.LightningModule],
    *,
    section: str | None = None,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    monitor: str | None = None,
    seed: int | None = None,
) -> Figures:
    """Train one task through LightningCLI and keep its best (by `monitor`, highest) or last checkpoint.

    A training with the same fingerprint that was cut off goes on from its last checkpoint.
    """
    settings = run.config[section or name]
    logs = run.folder / "logs" / name
    started = run.folder / "stages" / f"{name}.started"
    if not started.is_file() or started.read_text() != fingerprint:
        shutil.rmtree(logs, ignore_errors=True)
        write_text(started, fingerprint)
    attempt = len(list(logs.glob("version_*")))
    kept = logs / "checkpoints"
    # "last" after every validation, whether better or not: a training that is cut off goes on from there
    latest = ModelCheckpoint(dirpath=kept, filename="last", enable_version_counter=False)
    best = ModelCheckpoint(kept, "best", monitor=monitor, mode="max", enable_version_counter=False)
    callbacks: list[Callback] = [latest, progress(name), *([best] if monitor else [])]
    cli = LightningCLI(
        task,
        CXRDataModule,
        run=False,
        save_config_callback=None,
        seed_everything_default=run.config["seed"] if seed is None else seed,
        trainer_defaults={
            "callbacks": callbacks,
            "logger": {"class_path": LOGGER, "init_args": {"save_dir": str(logs), "name": "", "version": attempt}},
            "enable_progress_bar": any(type(c).__name__ == "RichProgressBar" for c in callbacks),
            "enable_model_summary": False,
            "log_every_n_steps": 10,
            "num_sanity_val_steps": 0,
        },
        args={
            "model": {**settings["model"], **(model or {})},
            "data": run.datamodule({**settings["data"], **(data or {})}),
            "trainer": {**settings["trainer"], "precision": trainer_precision(settings["trainer"].get("precision"))},
        },
    )
    last = kept / "last.ckpt"
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=last if last.is_file() else None, weights_only=True)
    cli.trainer.save_checkpoint(last)  # the end need not fall on a validation
    chosen = Path(best.best_model_path) if monitor and best.best_model_path else last
    write_bytes(run.checkpoint(name), chosen.read_bytes())
    _gather_logs(logs)
    figures = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
    return {**figures, "steps": cli.trainer.global_step, "parameters": sum(p.numel() for p in cli.model.parameters())}


def _gather_logs(logs: Path) -> None:
    """One metrics.csv of all attempts at a training, each step as the last attempt logged it."""
    attempts = sorted(logs.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    if not attempts:  # a training shorter than the logging interval
        return
    tables = [pd.read_csv(path) for path in attempts]
    firsts = [table["step"].min() for table in tables[1:]]
    kept = [table[table["step"] < first] for table, first in zip(tables, firsts, strict=False)] + tables[-1:]
    table = pd.concat(kept, ignore_index=True)
    write_text(logs / "metrics.csv", table.to_csv(index=False, lineterminator="\n"))


def _archive(run: Run, fingerprint: str) -> Figures:
    if run.config["phantom"] is not None:
        write_phantom(run.manifest_path.parent, **run.config["phantom"])
    manifest = run.manifest()
    manifest.resolve(run.findings)  # refuses an unknown finding before anything is trained
    return {"images": len(manifest), "healthy": int(manifest.healthy.sum())}


def _split(run: Run, fingerprint: str) -> Figures:
    splits = make_splits(Manifest.load(run.manifest_path), run.config["fractions"], seed=run.config["seed"])
    write_splits(splits, run.folder / "splits.csv")
    return {str(name): int(count) for name, count in splits["split"].value_counts().items()}


def _encoder(run: Run, fingerprint: str) -> Figures:
    return fit(run, "encoder", fingerprint, DINOTask)


def _attention(run: Run, fingerprint: str) -> Figures:
    model = {"findings": run.findings, "encoder": str(run.checkpoint("encoder"))}
    return fit(run, "attention", fingerprint, GLoRITask, model=model, monitor="val/auroc")


def _localise(run: Run, fingerprint: str) -> Figures:
    """Maps of the training patients for the inpainter; their quality on the test patients for the report."""
    task = GLoRITask.load_from_checkpoint(run.checkpoint("attention"), map_location="cpu", weights_only=True).eval()
    data = CXRDataModule(**run.datamodule(run.config["attention"]["data"]))
    count = collect_maps(task, data, run.maps_file, limit=run.config["limit"])
    rows = localise(task, data, run.maps_file)
    write_text(run.folder / "study" / "localisation.csv", rows.to_csv(index=False, lineterminator="\n"))
    return {"training_maps": count, "test_lesions": len(rows)}


def _inpainting(run: Run, fingerprint: str) -> Figures:
    data = {"maps": str(run.maps_file), "sampling": "balanced"}
    return fit(run, "inpainting", fingerprint, InpaintingTask, model={"findings": run.findings}, data=data)


def _scorer(run: Run, fingerprint: str) -> Figures:
    """A classifier of another architecture and seed than the judge's, to select the images by."""
    if run.config["scorer"] is None:
        return {}
    seed = run.config["seed"] + 1
    model = {"findings": run.findings}
    return fit(
        run, "scorer", fingerprint, ClassificationTask, model=model, data={"seed": seed}, monitor="val/auroc", seed=seed
    )


def _plan(run: Run, fingerprint: str) -> Figures:
    manifest, splits, settings = run.manifest(), read_splits(run.folder / "splits.csv"), run.config["plan"]
    likeness = likeness_for(settings.get("weights"), manifest, splits, str(run.checkpoint("encoder")))
    plan = make_plan(manifest, splits, run.findings, likeness=likeness, seed=run.config["seed"], **settings)
    write_plan(run.folder / "plan.csv", plan)
    return {"images": len(plan), **{str(f): int(n) for f, n in plan["finding"].value_counts().items()}}


def _synthesis(run: Run, fingerprint: str) -> Figures:
    return paint_plan(run, run.folder)


def paint_plan(run: Run, folder: Path) -> Figures:
    """Make the images of `plan.csv` of a folder with a run's checkpoints and settings; what is made stays."""
    settings = run.config["synthesis"]
    task = SynthesisTask(
        attention=str(run.checkpoint("attention")),
        inpainting=str(run.checkpoint("inpainting")),
        **{
            "limit": run.config["limit"],
            "threads": run.config["threads"],
            "cache": str(folder / "registrations"),
            **settings["model"],
        },
    )
    data = SynthesisDataModule(
        plan=str(folder / "plan.csv"),
        manifest=str(run.manifest_path),
        out=str(folder),
        splits=str(run.folder / "splits.csv"),
        **settings["data"],
    )
    trainer = L.Trainer(
        **settings["trainer"],
        callbacks=[SynthesisWriter(str(folder), selection=_selection(run)), progress("synthesis")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
    )
    trainer.predict(task, datamodule=data, return_predictions=False)
    write_card(folder)
    made, refused = (pd.read_csv(folder / name) for name in ("synthetic_all.csv", "refused.csv"))
    return {"made": len(made), "accepted": len(pd.read_csv(folder / "synthetic.csv")), "refused": len(refused)}


def _selection(run: Run) -> Selection | None:
    if run.config["scorer"] is None:
        return None
    return Selection(
        scorer=str(run.checkpoint("scorer")),
        splits=str(run.folder / "splits.csv"),
        maps=str(run.maps_file),
        **{"seed": run.config["seed"], **run.config["synthesis"].get("selection", {})},
    )


def _classification(run: Run, fingerprint: str) -> Figures:
    return _classify(run, fingerprint, "classification", {}, "real")


def _classification_synthetic(run: Run, fingerprint: str) -> Figures:
    data = {"extra_manifest": str(run.folder / "synthetic.csv")}
    return _classify(run, fingerprint, "classification_synthetic", data, "synthetic")


def _classify(run: Run, fingerprint: str, name: str, data: dict[str, Any], arm: str) -> Figures:
    """Train one arm; both have the same settings, hence the same number of steps."""
    model = {"findings": run.findings}
    figures = fit(
        run,
        name,
        fingerprint,
        ClassificationTask,
        section="classification",
        model=model,
        data=data,
        monitor="val/auroc",
    )
    test = CXRDataModule(**run.datamodule({**run.config["classification"]["data"], "predict_split": "test"}))
    write_predictions(predict_split(run.checkpoint(name), test), run.folder / "study" / f"predictions_{arm}.csv")
    return figures


def _effects(run: Run, fingerprint: str) -> Figures:
    """Scores of each result and its source by judges that never saw a synthetic image, nor chose one."""
    if run.config["scorer"] is not None:
        check_independent(run.checkpoint("scorer"), run.checkpoint("classification"))
    size = run.config["classification"]["data"]["size"]
    rows = score_effects(run.folder, run.manifest(), run.checkpoint("classification"), size)
    write_text(run.folder / "study" / "effects.csv", rows.to_csv(index=False, lineterminator="\n"))
    return {"scores": len(rows)}


def _report(run: Run, fingerprint: str) -> Figures:
    write_report(run.folder)
    return {}


def _in(*names: str) -> Callable[[Run], list[Path]]:
    """Outputs with fixed names in the run folder."""
    return lambda run: [run.folder / name for name in names]


def _made(run: Run) -> list[Path]:
    """What synthesis writes; the images themselves are hashed in their provenance."""
    made = [run.folder / name for name in (*SYNTHESIS_TABLES, "card.md")]
    if run.config["scorer"] is not None:
        made += [run.folder / name for name in ("scores.csv", LIMITS_FILE)]
    return made + sorted(p for kind in ("images", "regions", "maps") for p in (run.folder / kind).glob("*.png"))


def _start(run: Run) -> list[Path]:
    """The inpainter that the training starts from, if any."""
    start = run.config["inpainting"]["model"].get("start")
    return [] if start is None else [find_inpainter(start)]


def _checkpoint(name: str) -> str:
    return f"checkpoints/{name}.ckpt"


ARCHIVE = ("findings", "views", "sites", "seed", "threads")
STAGES = (
    Stage(
        "archive",
        "the archive",
        _archive,
        lambda run: [run.manifest_path] if run.config["phantom"] else [],
        ("phantom", "findings", "views", "sites"),
        inputs=lambda run: [] if run.config["phantom"] else [run.manifest_path],
    ),
    Stage(
        "split",
        "patients into training, validation and test",
        _split,
        _in("splits.csv"),
        ("fractions", "seed"),
        ("archive",),
    ),
    Stage(
        "encoder", "pretraining the encoder", _encoder, _in(_checkpoint("encoder")), ("encoder", *ARCHIVE), ("split",)
    ),
    Stage(
        "attention",
        "training the disease queries",
        _attention,
        _in(_checkpoint("attention")),
        ("attention", *ARCHIVE),
        ("encoder",),
    ),
    Stage(
        "localisation",
        "attention maps, and how well they find lesions",
        _localise,
        _in("stages/attention_maps.npz", "study/localisation.csv"),
        ("attention", "limit", *ARCHIVE),
        ("attention",),
    ),
    Stage(
        "inpainting",
        "training the inpainter",
        _inpainting,
        _in(_checkpoint("inpainting")),
        ("inpainting", *ARCHIVE),
        ("localisation",),
        inputs=_start,
    ),
    Stage(
        "scorer",
        "training a classifier that selects the images",
        _scorer,
        lambda run: [run.checkpoint("scorer")] if run.config["scorer"] else [],
        ("scorer", *ARCHIVE),
        ("split",),
    ),
    Stage("plan", "who gets which finding from whom", _plan, _in("plan.csv"), ("plan", *ARCHIVE), ("split", "encoder")),
    Stage(
        "synthesis",
        "painting the plan",
        _synthesis,
        _made,
        ("synthesis", "limit", *ARCHIVE),
        ("plan", "attention", "localisation", "inpainting", "scorer"),
    ),
    Stage(
        "classification",
        "training a classifier on real images",
        _classification,
        _in(_checkpoint("classification"), "study/predictions_real.csv"),
        ("classification", *ARCHIVE),
        ("split",),
    ),
    Stage(
        "classification_synthetic",
        "training a classifier on real and synthetic images",
        _classification_synthetic,
        _in(_checkpoint("classification_synthetic"), "study/predictions_synthetic.csv"),
        ("classification", *ARCHIVE),
        ("split", "synthesis"),
    ),
    Stage(
        "effects",
        "did the asked findings rise?",
        _effects,
        _in("study/effects.csv"),
        ("classification",),
        ("synthesis", "scorer", "classification"),
    ),
    Stage(
        "report",
        "the page",
        _report,
        _in("report.html", "report.json"),
        (),
        ("localisation", "effects", "classification", "classification_synthetic"),
    ),
)
