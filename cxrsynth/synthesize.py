"""`cxrsynth synthesize` and `cxrsynth resume`: more images from a trained run, and going on with what was cut off."""

import math
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from cxrsynth import __version__
from cxrsynth.data.split import read_splits
from cxrsynth.errors import UserError
from cxrsynth.files import write_bytes, write_text
from cxrsynth.pipeline import quieten, run
from cxrsynth.run_folder import Run
from cxrsynth.stages import paint_plan
from cxrsynth.synthesis.plan import make_plan, write_plan

ROUNDS = 5  # plans of growing length, when a number of accepted images is asked for
SPARE = 1.1  # more rows than the accept rate of the round before asks for
ASKED = "synthesize"  # in config.yaml: what was asked of `synthesize`


def synthesize(
    run: str,
    out: str,
    count: int | None = None,
    accepted: int | None = None,
    seed: int | None = None,
    max_per_source: int | None = None,
) -> Path:
    """Make images with the checkpoints, plan and settings of a run, into a folder of their own.

    Started again with the same arguments, or by `cxrsynth resume OUT`, it makes what is missing; the result equals an
    uninterrupted one byte for byte.

    Args:
        run: Folder of a run whose networks are trained.
        out: Folder for the images; it gets the files of a run folder.
        count: Images to plan, the rarest findings first; without it the run's own plan is painted.
        accepted: In place of `count`: the plan grows until the selection has accepted so many.
        seed: Seed of the plan; default the run's. Give another one for images that the run does not have yet.
        max_per_source: Images painted into one healthy image at most; default as in the run's plan.

    Returns:
        The folder's manifest of accepted images.

    Raises:
        UserError: The run cannot be used, or `out` holds another synthesis.
    """
    for name, value in (("count", count), ("accepted", accepted), ("max_per_source", max_per_source)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}, but must be at least 1")
    if count is not None and accepted is not None:
        raise UserError("count and accepted are both given; give one of them")
    folder = Path(out)
    state = open_trained(run)
    if accepted is not None and state.config["scorer"] is None:
        raise UserError(f"accepted is {accepted}, but {run} has no scorer that could accept; give --count")
    if folder.resolve() == state.folder.resolve():
        raise UserError(f"out is the run folder {run} itself; give a folder of its own, or `cxrsynth resume {run}`")
    asked = {"run": os.path.relpath(state.folder, folder), "count": count, "accepted": accepted, "seed": seed}
    if max_per_source is not None:
        asked["max_per_source"] = max_per_source
    _write_config(folder, state, asked)
    write_bytes(folder / "splits.csv", (state.folder / "splits.csv").read_bytes())
    torch.set_num_threads(state.config["threads"])
    quieten()
    if count is None and accepted is None:
        write_bytes(folder / "plan.csv", (state.folder / "plan.csv").read_bytes())
        paint_plan(state, folder)
    else:
        settings = {"seed": state.config["seed"] if seed is None else seed}
        if max_per_source is not None:
            settings["max_per_source"] = max_per_source
        _grow(state, folder, count or accepted or 0, accepted, settings)
    return folder / "synthetic.csv"


def resume(folder: str) -> Path:
    """Go on with what was cut off in a folder: a run, or a synthesis from a run.

    Args:
        folder: A folder with the `config.yaml` that `cxrsynth run` or `cxrsynth synthesize` wrote.

    Returns:
        The report of a run, or the manifest of a synthesis.

    Raises:
        UserError: The folder has no such file.
    """
    path = Path(folder)
    config = read_config(path)
    if ASKED in config:
        asked = config[ASKED]
        return synthesize(str(path / asked.pop("run")), folder, **asked)
    config["manifest"] = None if config["phantom"] is not None else str(path / config["manifest"])
    return run(run=folder, **config)


def open_trained(folder: str | Path) -> Run:
    """A run whose networks are trained.

    Raises:
        UserError: There is none, or a file that synthesis needs is missing.
    """
    state = Run(Path(folder), read_config(Path(folder)))
    state.config["manifest"] = str(state.folder / state.config["manifest"])
    needed = [state.checkpoint("attention"), state.checkpoint("inpainting"), state.folder / "splits.csv"]
    if state.config["scorer"] is not None:
        needed += [state.checkpoint("scorer"), state.maps_file]
    missing = [path for path in [*needed, state.manifest_path, state.folder / "plan.csv"] if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing; finish the run first with `cxrsynth resume {folder}`")
    return state


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.yaml` of a folder says, without the notes that the program adds.

    Raises:
        UserError: There is none.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read; give a folder that `cxrsynth run` wrote") from error
    if not isinstance(config, dict) or "manifest" not in config:
        raise UserError(f"{path} is no configuration of a run; give a folder that `cxrsynth run` wrote")
    config = {name: value for name, value in config.items() if name not in ("command", "version")}
    return {"scorer": None, "limit": "none", **config}  # runs of versions that had neither


def _grow(state: Run, folder: Path, rows: int, accepted: int | None, given: dict[str, int]) -> None:
    """Plan and paint; while fewer images are accepted than asked for, plan more: what was planned stays as it is."""
    settings = {**state.config["plan"], **given, "rule": "level", "targets": None}
    for _ in range(ROUNDS):
        plan = make_plan(
            state.manifest(),
            read_splits(state.folder / "splits.csv"),
            state.findings,
            **{**settings, "count": rows},
        )
        write_plan(folder / "plan.csv", plan)
        kept = paint_plan(state, folder)["accepted"]
        if accepted is None or kept >= accepted:
            return
        rows = math.ceil(SPARE * rows * min(accepted / max(kept, 1), 10))
    raise UserError(
        f"accepted is {accepted}, but of {len(plan)} images only {kept} were; the folder is complete as it is: "
        "ask for fewer, or train longer (selection.json says under real_lesions what share of pasted real ones would "
        "pass the check of the gain)"
    )


def _write_config(folder: Path, state: Run, asked: dict[str, Any]) -> None:
    path = folder / "config.yaml"
    if path.is_file() and read_config(folder).get(ASKED) != asked:
        raise UserError(f"out is {folder}, which holds something else ({path}); give an empty folder")
    content = {**state.config, "manifest": os.path.relpath(state.manifest_path, folder), ASKED: asked}
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    write_text(path, yaml.safe_dump({**content, "command": command, "version": __version__}, sort_keys=False))
