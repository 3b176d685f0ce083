"""The C++ and CUDA sources under the address, undefined-behaviour and thread sanitizers, without a GPU."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATHS = {"portable": [], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"]}
CPU = ["dispatch", "demons", "resize", "warp"]


@pytest.fixture(scope="module")
def compiler():
    if platform.machine() not in ("x86_64", "AMD64") or not shutil.which("g++"):
        pytest.skip("needs g++ on x86-64")
    return shutil.which("g++")


def build(compiler: str, folder: Path, sanitizer: str) -> Path:
    """Compile the kernels' own sources and exercise.cpp into one program."""
    flags = ["-std=c++20", "-O1", "-g1", "-DCXR_CUDA_SHIM", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests/csrc'}"]
    flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-ffp-contract=off"]
    flags += [f"-DCXR_HAVE_{path.upper()}" for path in PATHS]
    jobs = [(ROOT / "tests/csrc/exercise.cpp", [])]
    jobs += [(ROOT / f"csrc/cpu/{name}.cpp", []) for name in CPU]
    jobs += [(ROOT / f"csrc/cuda/{name}.cu", ["-x", "c++"]) for name in ("warp", "demons")]
    jobs += [(ROOT / "csrc/cpu/row_kernels.cpp", [f"-DCXR_PATH={path}", *extra]) for path, extra in PATHS.items()]
    objects = []
    for i, (source, extra) in enumerate(jobs):
        objects.append(folder / f"{i}.o")
        subprocess.run([compiler, *flags, *extra, "-c", str(source), "-o", str(objects[-1])], check=True)
    program = folder / "exercise"
    link = subprocess.run(
        [compiler, f"-fsanitize={sanitizer}", *map(str, objects), "-pthread", "-o", str(program)], capture_output=True
    )
    if link.returncode:
        pytest.skip(f"no {sanitizer} sanitizer here: {link.stderr.decode()[-200:]}")
    return program


@pytest.mark.slow
@pytest.mark.parametrize(("sanitizer", "arguments"), [("address,undefined", []), ("thread", ["quick"])])
def test_kernels_are_clean_and_cuda_equals_cpu(compiler, tmp_path, sanitizer, arguments):
    program = build(compiler, tmp_path, sanitizer)
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "LD_PRELOAD": ""}
    run = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert "0 differences" in run.stdout
