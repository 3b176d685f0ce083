"""`cxrsynth doctor` and `cxrsynth encoder inspect`: what is installed, and what a file of weights holds."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cxrsynth import __version__
from cxrsynth.attention.checkpoint import holds_glori, inspect_glori
from cxrsynth.encoder.checkpoint import inspect_encoder
from cxrsynth.encoder.weights import fingerprints
from cxrsynth.errors import UserError
from cxrsynth.ops import build_info

PACKAGES = ("torch", "lightning", "torchmetrics", "monai", "kornia", "jsonargparse", "numpy", "pandas", "pydicom")


def doctor() -> None:
    """Print versions, kernels, CPU path, CUDA and threads of this installation, and advice where something is amiss."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    advice: list[str] = []
    table.add_row("cxrsynth", __version__)
    table.add_row("Python", platform.python_version())
    for name in PACKAGES:
        table.add_row(name, _version(name, advice))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    table.add_row("cores, torch threads", f"{cores}, {torch.get_num_threads()}")
    if torch.get_num_threads() > cores:
        advice.append(f"torch uses more threads than the {cores} cores here: set OMP_NUM_THREADS={cores}")
    try:
        info = build_info()
    except UserError as error:
        info = {}
        advice.append(str(error))
    for key, value in info.items():
        table.add_row(f"kernels: {key}", str(value))
    table.add_row("GPU", _gpu(info, advice))
    console = Console()
    console.print(table, highlight=False)
    for sentence in advice or ["Everything is in place."]:
        console.print(f"- {sentence}" if advice else sentence, highlight=False)


def _version(name: str, advice: list[str]) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        advice.append(f"{name} is missing: pip install {name}")
        return "missing"


def _gpu(info: dict, advice: list[str]) -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    name = torch.cuda.get_device_name(0)
    if not info.get("cuda"):
        advice.append(f"{name} is here but the kernels were built without CUDA: install nvcc, then pip install again")
    return f"{name} (torch CUDA {torch.version.cuda})"


def inspect_weights(file: str, num_heads: int | None = None) -> None:
    """Print what a file of an encoder or of GLoRI heads holds, and the call that loads it.

    Args:
        file: A file of weights, a folder of shards or their index.
        num_heads: The encoder's attention heads, where they cannot be guessed from its width.
    """
    table = Table(show_header=False, box=None, padding=(0, 2))
    if holds_glori(file):
        heads = inspect_glori(file)
        for head in heads:
            _rows(table, {"layout": "GLoRI head", **head})
        name = f", name={heads[0]['name']!r}" if len(heads) > 1 else ""
        call = f"cxrsynth.attention.load_glori({file!r}{name})"
    else:
        found = inspect_encoder(file, num_heads)
        _rows(table, found)
        unusual = found["num_heads"] is None or found["num_heads"] * 64 != found["dim"]
        own = found["layout"].startswith("cxrsynth")
        heads_argument = f", num_heads={found['num_heads'] or '...'}" if unusual and not own else ""
        call = f"cxrsynth.encoder.load_encoder({file!r}{heads_argument})"
    for name, digest in fingerprints(file).items():
        table.add_row(f"sha256 of {Path(name).name}", digest)
    table.add_row("load with", call)
    Console(width=max(200, 2 * len(call))).print(table, highlight=False)


def _rows(table: Table, found: dict[str, Any]) -> None:
    words = {"dtypes": "stored as", "ffn": "feed-forward", "ffn_hidden": "feed-forward width", "findings": "classes"}
    shown = dict(found)
    if "layer_scale" in found:  # its initial value is not in the file, only whether it is there
        shown["layer_scale"] = "no" if found["layer_scale"] is None else "yes"
        shown["num_heads"] = found["num_heads"] or "unknown: give --num_heads"
        shown["ffn_hidden"] = found["ffn_hidden"] or "as published"
    for key, value in shown.items():
        if value is not None:
            text = ", ".join(value) if isinstance(value, list) else f"{value:,}" if key == "parameters" else str(value)
            table.add_row(words.get(key, key.replace("_", " ")), text)
