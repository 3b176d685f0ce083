"""`cxrsynth run`: the stages in their order, each skipped when its output for the same configuration exists."""

import hashlib
import json
import logging
import os
import resource
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from cxrsynth import __version__
from cxrsynth.errors import UserError
from cxrsynth.files import sha256_file, write_json, write_text
from cxrsynth.run_folder import Run, Stage
from cxrsynth.stages import STAGES
from cxrsynth.synthesis.scorer import check_networks


def run(
    run: str,
    findings: list[str],
    encoder: dict[str, Any],
    attention: dict[str, Any],
    inpainting: dict[str, Any],
    plan: dict[str, Any],
    synthesis: dict[str, Any],
    classification: dict[str, Any],
    scorer: dict[str, Any] | None = None,
    manifest: str | None = None,
    phantom: dict[str, Any] | None = None,
    views: list[str] | None = None,
    sites: list[str] | None = None,
    fractions: list[float] | None = None,
    limit: str = "none",
    seed: int = 0,
    threads: int = 2,
    scratch: bool = False,
) -> Path:
    """Run the whole pipeline and write its report.

    Started again, it goes on where it stopped: a stage whose configuration and inputs are unchanged is skipped, and a
    training that was cut off continues from its last checkpoint.

    Args:
        run: The run folder, for example runs/demo.
        findings: Findings to paint and to classify, by any of their usual names.
        encoder: `model`, `data` and `trainer` arguments of the pretraining task.
        attention: The same of the GLoRI task.
        inpainting: The same of the inpainting task; `scratch` holds what is different with `--scratch`.
        plan: Arguments of `cxrsynth.synthesis.plan.make_plan`.
        synthesis: `model`, `data` and `trainer` arguments of the synthesis task, and `selection`, those of
            `cxrsynth.synthesis.selection.Selection`.
        classification: `model`, `data` and `trainer` arguments of the classification task, trained twice.
        scorer: The same of the classifier that selects images; another network than the classification's. Without it
            every image is accepted.
        manifest: The archive's table. Without it a phantom archive is made inside the run folder.
        phantom: Arguments of `cxrsynth.data.phantom.write_phantom`.
        views: Keep only images of these views, for example [PA].
        sites: Keep only images of these sites.
        fractions: Shares of training, validation and test patients.
        limit: Where lesions may lie in the maps that teach the inpainter and in what is painted: none (anywhere), chest
            or lungs, as the segmenter sees them.
        seed: Seed of the split, the plan and every training.
        threads: CPU threads; fixed, because floating point depends on it.
        scratch: Train the inpainter from fresh weights, whatever its `start` says.

    Returns:
        Path of report.html.

    Raises:
        UserError: The configuration or the archive cannot be used.
    """
    config = {name: value for name, value in locals().items() if name not in ("run", "scratch")}
    if scratch:
        config["inpainting"] = _from_scratch(inpainting)
    folder = Path(run)
    if manifest is None:
        if phantom is None:
            raise UserError(
                "neither manifest nor phantom is given; give --manifest FILE, or phantom settings in the config"
            )
        config["manifest"] = str(folder / "phantom" / "metadata.csv")
    elif not Path(manifest).is_file():
        raise UserError(f"manifest {manifest} does not exist; give the path of an archive's CSV or Parquet table")
    else:
        config["phantom"] = None
    if scorer is not None:
        check_networks(*(section["model"].get("network", "efficientnet-b4") for section in (scorer, classification)))
    _check_sections(config)
    torch.set_num_threads(threads)
    quieten()
    _write_config(folder, config)
    console = Console()
    state = Run(folder, config)
    started = time.monotonic()
    for number, stage in enumerate(STAGES, 1):
        fingerprint = _fingerprint(state, stage)
        title = f"[{number}/{len(STAGES)}] {stage.name:<24}"
        if _is_done(state, stage, fingerprint):
            console.print(f"{title} done before", highlight=False)
            continue
        console.print(f"{title} {stage.purpose}", highlight=False)
        begin = time.monotonic()
        figures = stage.run(state, fingerprint)
        record = {
            "stage": stage.name,
            "fingerprint": fingerprint,
            "seconds": round(time.monotonic() - begin, 1),
            "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "version": __version__,
            "outputs": {str(path.relative_to(folder)): sha256_file(path) for path in stage.outputs(state)},
            "figures": figures,
        }
        write_json(state.stage_file(stage.name), record)
        console.print(f"{'':29}{record['seconds']:.0f} s", highlight=False)
    console.print(f"all stages: {time.monotonic() - started:.0f} s", highlight=False)
    return folder / "report.html"


def _check_sections(config: dict[str, Any]) -> None:
    """Refuse entries that no stage would read, such as a misspelled `trainer`."""
    own = {"inpainting": {"scratch"}, "synthesis": {"selection"}}
    for name in ("encoder", "attention", "inpainting", "scorer", "synthesis", "classification"):
        section = config[name]
        if section is None:
            continue
        allowed = {"model", "data", "trainer"}
        if missing := sorted(allowed - section.keys()):
            raise UserError(f"{name} lacks {missing[0]!r}; give {{}} for the defaults")
        allowed |= own.get(name, set())
        if strange := sorted(section.keys() - allowed):
            raise UserError(f"{name} has {strange[0]!r}, which is not one of {', '.join(sorted(allowed))}")


def quieten() -> None:
    """Keep Lightning's remarks about what the pipeline does on purpose off the console."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        "LightningCLI's args parameter",  # each stage is configured by the pipeline, not by sys.argv
        ".*does not have many workers",  # images are cached in memory; workers would only copy them
        ".*LeafSpec",  # Lightning's own use of torch's pytree
        ".*is smaller than the logging interval",  # short trainings log per epoch
        ".*but have no `validation_step`",  # pretraining has no validation
        ".*exists and is not empty",  # a training that goes on after it was cut off
        ".*in eval mode at the start of training",  # a frozen encoder
    ):
        warnings.filterwarnings("ignore", message)


def _from_scratch(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a section with those under `scratch` put in, and without a start."""
    other = settings.get("scratch", {})
    merged = {name: {**settings[name], **other.get(name, {})} for name in ("model", "data", "trainer")}
    merged["model"]["start"] = None
    return merged


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write config.yaml; the manifest's path is written relative to the run folder."""
    relative = os.path.relpath(config["manifest"], folder)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    content = {**config, "manifest": relative, "command": command, "version": __version__}
    write_text(folder / "config.yaml", yaml.safe_dump(content, sort_keys=False))


def _fingerprint(state: Run, stage: Stage) -> str:
    """SHA-256 of all that a stage depends on: its settings, and what the stages it needs were and have made."""
    settings = {name: state.config[name] for name in stage.settings}
    records = {name: state.record(name) for name in stage.needs}
    needed = {name: [record["fingerprint"], record["outputs"]] for name, record in records.items()}
    inputs = [sha256_file(path) for path in stage.inputs(state)]
    return hashlib.sha256(json.dumps([stage.name, settings, needed, inputs], sort_keys=True).encode()).hexdigest()


def _is_done(state: Run, stage: Stage, fingerprint: str) -> bool:
    """Whether the stage's record carries this fingerprint and its outputs are there, unchanged."""
    record = state.record(stage.name)
    if not record or record["fingerprint"] != fingerprint:
        return False
    return all(
        (state.folder / path).is_file() and sha256_file(state.folder / path) == digest
        for path, digest in record["outputs"].items()
    )
