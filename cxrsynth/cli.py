"""The command line: LightningCLI over all tasks, and the commands around it."""

import inspect
import json
import logging
import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from cxrsynth.errors import UserError

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
COMMANDS: dict[str, Any] = {
    "run": "cxrsynth.pipeline:run",
    "study": "cxrsynth.study.study:study",
    "reader-study": "cxrsynth.report.reader_study:reader_study",
    "plan": "cxrsynth.synthesis.planning:plan",
    "inpaint": "cxrsynth.editing.command:inpaint",
    "export": "cxrsynth.inpainting.export:export",
    "synthesize": "cxrsynth.synthesize:synthesize",
    "resume": "cxrsynth.synthesize:resume",
    "verify": "cxrsynth.evaluation.verify:verify",
    "card": "cxrsynth.report.card:write_card",
    "report": "cxrsynth.report:write_report",
    "doctor": "cxrsynth.commands:doctor",
    "encoder": {"inspect": "cxrsynth.commands:inspect_weights"},
    "data": {
        "import": "cxrsynth.data.commands:import_archive",
        "check": "cxrsynth.data.commands:check",
        "split": "cxrsynth.data.commands:split",
        "export": "cxrsynth.editing.export:export",
        "phantom": "cxrsynth.data.phantom:write_phantom",
    },
}
POSITIONAL = ("report", "card", "verify", "resume", "export")  # their arguments are files or folders
USAGE = """usage: cxrsynth COMMAND [options]      (cxrsynth COMMAND --help explains one)

  run        a whole pipeline: archive -> encoder -> attention -> inpainting -> new images -> classifiers -> report
  study      judge synthetic images: every control at equal steps, intervals, one page with a verdict
  reader-study  a blinded page for radiologists that works offline, and what their answers say
  plan       which images to make: finding, healthy source, exemplar; and what they will cost
  synthesize more images from a trained run: --run runs/x --out FOLDER, then --count N or --accepted N
  resume     go on with what was cut off in a folder of `run` or `synthesize`
  inpaint    paint a finding into one image (PNG or DICOM), or out of it
  export     a trained inpainter as one small file of safetensors
  fit        train one task: cxrsynth fit --config lightning_configs/inpainting.yaml
  validate   its loss and metrics on the validation patients
  test       the same on the test patients
  predict    its predictions; with synthesize.yaml the images of a plan
             (these four are LightningCLI: --model.X, --data.X, --trainer.X and --print_config)
  data       import | check | split | phantom | export: archives and manifests; a run's images to hand on
  encoder    inspect FILE: what a file of an encoder or of GLoRI heads holds, and the call that loads it
  verify     check a folder of synthetic images: hashes, exactness against the sources, provenance, plan, patients
  card       write the dataset card (card.md) of a folder of synthetic images again
  report     write report.html and report.json of a run folder again
  doctor     versions, kernels, threads and GPU of this installation, and what to do about them
"""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a user's error becomes one sentence and exit status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    command, rest = arguments[0], arguments[1:]
    # which files of weights were read, with their hashes
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("cxrsynth").setLevel(logging.INFO)
    try:
        if command in TRAINER_COMMANDS:
            lightning_cli(arguments)
        elif command in COMMANDS:
            _command(command, rest)
        else:
            known = ", ".join([*COMMANDS, *TRAINER_COMMANDS])
            raise UserError(f"command {command!r} is unknown; choose one of {known}")
    except UserError as error:
        _fail(str(error))
    except PermissionError as error:
        _fail(f"{error.filename} cannot be read or written ({error.strerror}); change its permissions or the path")
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        _fail("a loader process died, most often for want of memory; lower num_workers and run the same command again")
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from what is finished", status=130)


def lightning_cli(arguments: list[str] | dict[str, Any]) -> Any:
    """LightningCLI over every task, each chosen by `model.class_path`; see `lightning_configs/`."""
    import lightning as L
    import torch
    from lightning.pytorch.cli import LightningCLI, SaveConfigCallback

    from cxrsynth.data.datamodule import CXRDataModule
    from cxrsynth.precision import trainer_precision

    class SaveConfig(SaveConfigCallback):
        """Names the saved file after the subcommand, so that `predict` leaves `fit`'s file alone.

        Saves nothing where the run has no folder of its own, which would be the user's current one.
        """

        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            assert trainer.state.fn is not None
            if trainer.logger is None and Path(trainer.default_root_dir) == Path.cwd():
                return
            self.config_filename = f"{trainer.state.fn.value}.yaml"
            super().setup(trainer, pl_module, stage)

    class CLI(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.set_defaults({"data": {"class_path": f"{CXRDataModule.__module__}.{CXRDataModule.__name__}"}})

        def _parse_ckpt_path(self) -> None:
            """Checkpoints of `cxrsynth run` do not name their class as those of this command do: it is the config's."""
            asked = self.config[self.config.subcommand]
            if asked.get("ckpt_path") and Path(asked.ckpt_path).is_file():
                stored = torch.load(asked.ckpt_path, weights_only=True, map_location="cpu", mmap=True)
                known = stored.get("hyper_parameters", {})
                given = stored.get("arguments", known)  # a few-step student's checkpoint is an inpainter's
                hparams = {key: value for key, value in given.items() if key[0] != "_"}
                class_path = known.get("_class_path", asked.model.class_path)
                model = {"class_path": class_path, "dict_kwargs": hparams}
                self.config = self.parser.parse_object({self.config.subcommand: {"model": model}}, self.config)

        def before_instantiate_classes(self) -> None:
            given = self.config[self.subcommand]
            if given.get("weights_only", True) is None:
                given.weights_only = True
            asked = given.trainer
            accelerator = asked.accelerator if isinstance(asked.accelerator, str) else "auto"
            asked.precision = trainer_precision(asked.precision, accelerator)

    return CLI(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        trainer_defaults={
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs"}}
        },
        args=arguments,
    )


def _command(name: str, arguments: list[str]) -> None:
    from jsonargparse import auto_cli

    entry = COMMANDS[name]
    options: dict[str, Any] = {"prog": f"cxrsynth {name}", "exit_on_error": False}
    try:
        if isinstance(entry, dict):
            functions = {key: _load(path) for key, path in entry.items()}
            if arguments and arguments[0] in functions:
                arguments = [arguments[0], *_spelled(arguments[1:], functions[arguments[0]])]
            result = auto_cli(functions, args=arguments, **options)
        else:
            function = _load(entry)
            arguments = _nested(_spelled(arguments, function), function)
            result = auto_cli(function, args=arguments, as_positional=name in POSITIONAL, **options)
    except ArgumentError as error:
        raise UserError(f"{_in_a_sentence(str(error))}; cxrsynth {name} --help lists the options") from error
    if isinstance(result, (str, os.PathLike)):
        print(result)


def _spelled(arguments: list[str], function: Callable[..., Any]) -> list[str]:
    """Options as the parser wants them: `--map-from` is `--map_from`, and a lone switch is true."""
    switches = {name for name, p in inspect.signature(function).parameters.items() if isinstance(p.default, bool)}
    spelled = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if name in switches and not equals and following not in ("true", "false"):
                equals, value = "=", "true"
            argument = f"--{name}{equals}{value}"
        spelled.append(argument)
    return spelled


def _nested(arguments: list[str], function: Callable[..., Any]) -> list[str]:
    """`--plan.count 16` changes one entry of a mapping; the parser by itself would replace the whole mapping."""
    parameters = inspect.signature(function).parameters
    mappings: dict[str, dict[str, Any]] = {name: {} for name, p in parameters.items() if "dict[" in str(p.annotation)}
    kept: list[str] = []
    changes: list[tuple[list[str], Any]] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.removeprefix("--").partition("=")
        section, *path = name.split(".")
        if not argument.startswith("--") or (section not in mappings and section != "config"):
            kept.append(argument)
            continue
        value = value if equals else next(rest, "")
        if path:
            changes.append(([section, *path], _value(value)))
            continue
        kept += [f"--{name}", value]
        if section != "config":
            mappings[section] = _value(value) or {}
        elif Path(value).is_file():
            mappings |= {k: v or {} for k, v in (_read_yaml(Path(value)) or {}).items() if k in mappings}
    for path, value in changes:
        place: dict[str, Any] = mappings
        for key in path[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise UserError(f"option --{'.'.join(path)} is inside {key!r}, which is no mapping")
        place[path[-1]] = value
    return kept + [f"--{section}={json.dumps(mappings[section])}" for section in {path[0]: None for path, _ in changes}]


def _value(text: str) -> Any:
    try:
        return json.loads(text)  # also 1e-3, which YAML takes for a word
    except ValueError:
        return _read_yaml(text)


def _read_yaml(content: str | Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(content if isinstance(content, str) else content.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{content} is not YAML: {str(error).splitlines()[0]}") from error


def _in_a_sentence(fault: str) -> str:
    """What the parser says of an option, in one line."""
    option, value = re.search(r'Parser key "([^"]+)"', fault), re.search(r"(?:Given|Got) value: (.*)", fault)
    if option and value:
        return f"option --{option[1]} cannot be {value[1]!r}"
    return fault.splitlines()[0].rstrip(".")


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def _fail(sentence: str, status: int = 2) -> None:
    if os.environ.get("CXRSYNTH_DEBUG"):
        raise
    print(f"cxrsynth: {sentence}", file=sys.stderr)
    sys.exit(status)
