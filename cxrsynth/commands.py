"""`cxrsynth doctor`: what is installed, what it can do, and what to do about the rest."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Table

from cxrsynth import __version__
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
