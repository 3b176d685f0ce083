"""The two rules of the folder list: who imports whom, and who knows Lightning."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cxrsynth"
ROOMS = [
    "errors",
    "files",
    "checkpoints",
    "precision",
    "chance",
    "ops",
    "data",
    "encoder",
    "anatomy",
    "attention",
    "registration",
    "autoencoder",
    "inpainting",
    "classification",
    "synthesis",
    "editing",
    "evaluation",
    "report",
    "callbacks",
    "run_folder",
    "stages",
    "pipeline",
    "synthesize",
    "study",
    "commands",
    "cli",
    "__main__",
]
KNOWS_LIGHTNING = {
    *("task.py", "callbacks.py", "datamodule.py", "writer.py"),
    *("stages.py", "pipeline.py", "study.py", "cli.py"),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_up_the_list_only(path: Path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ROOMS, f"{room} is not in the list of rooms"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "cxrsynth" and len(parts) > 1 and parts[1] in ROOMS:
            assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path.name} in {room} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_named_files_import_lightning(path: Path):
    roots = {name.split(".")[0] for name in imported(path)}
    if path.name not in KNOWS_LIGHTNING:
        assert not roots & {"lightning", "pytorch_lightning"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_longer_than_400_lines(path: Path):
    assert len(path.read_text().splitlines()) <= 400
