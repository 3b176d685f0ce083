"""The C++ and CUDA sources without a GPU: equal results, under the sanitizers, and compiled by nvcc where it is.

The CUDA kernels' own source runs on the CPU through cuda_shim.h, at small sizes. Programs are kept in pytest's cache
until a source changes.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOGETHER = 2  # compilers at once
PATHS = {
    "portable": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
CPU = ["affine", "box", "dispatch", "demons", "jacobian", "norm", "resize", "warp", "winograd"]
CUDA = ["warp", "demons", "norm"]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "LD_PRELOAD": "", **environment}, check=False
    )


def fingerprint(*others: str) -> str:
    """Of the kernels' sources, this folder's, and what else matters."""
    files = sorted((ROOT / "csrc").rglob("*.*")) + sorted(Path(__file__).parent.glob("*.*"))
    parts = [file.read_bytes() for file in files] + [other.encode() for other in others]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@pytest.fixture
def build(request, tmp_path):
    """build(name, paths, flags) compiles exercise.cpp and all kernels with g++; returns the program."""
    compiler = shutil.which("g++")
    if platform.machine() not in ("x86_64", "AMD64") or not compiler:
        pytest.skip("needs g++ on x86-64")

    def program(name: str, paths: list[str], *extra: str) -> Path:
        flags = ["-std=c++20", "-O1", "-g1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-pthread", "-DCXR_CUDA_SHIM"]
        flags += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests/csrc'}", *extra]
        flags += [f"-DCXR_HAVE_{path.upper()}" for path in paths]
        folder = request.config.cache.mkdir("kernels")
        kept = folder / f"{name}-{fingerprint(*flags, *paths, run(compiler, '--version').stdout)}"
        if kept.exists():
            return kept
        jobs = [(ROOT / f"csrc/cuda/{source}.cu", ["-x", "c++"]) for source in CUDA]
        jobs += [(ROOT / "tests/csrc/exercise.cpp", [])]
        jobs += [(ROOT / f"csrc/cpu/{source}.cpp", []) for source in CPU]
        jobs += [(ROOT / "csrc/cpu/row_kernels.cpp", [f"-DCXR_PATH={path}", *PATHS[path]]) for path in paths]

        def compiled(job: tuple[int, tuple[Path, list[str]]]) -> Path:
            number, (source, own) = job
            target = tmp_path / f"{number}.o"
            result = run(compiler, *flags, *own, "-c", source, "-o", target)
            assert result.returncode == 0, result.stderr[-4000:]
            return target

        with ThreadPoolExecutor(TOGETHER) as pool:
            objects = list(pool.map(compiled, enumerate(jobs)))
        linked = run(compiler, *flags, *objects, "-o", tmp_path / "exercise")
        if linked.returncode:
            pytest.skip(f"{name}: cannot link here: {linked.stderr[-200:]}")
        for old in folder.glob(f"{name}-*"):
            old.unlink(missing_ok=True)
        shutil.copy(tmp_path / "exercise", kept.with_suffix(f".{os.getpid()}"))
        return kept.with_suffix(f".{os.getpid()}").replace(kept)

    return program


def exercise(program: Path, part: str) -> None:
    """Run a part of exercise.cpp; the test fails on a difference or a sanitizer's report."""
    result = run(program, part, TSAN_OPTIONS="halt_on_error=1")
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("the thread sanitizer cannot run with this kernel's address space randomisation")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert "\n0 differences" in "\n" + result.stdout


def test_cuda_source_equals_cpu(build):
    """Every option, in float and double, within 2e-4 and 1e-10 pixels; no bit depends on the order of threads."""
    exercise(build("plain", ["portable"]), "cuda")


def test_cuda_source_under_address_and_undefined_sanitizer(build):
    sanitizers = "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    exercise(build("address", ["portable"], *sanitizers), "cuda-few")


@pytest.mark.slow
def test_cuda_source_under_thread_sanitizer(build):
    exercise(build("thread", ["portable"], "-fsanitize=thread"), "cuda-few")


@pytest.mark.slow
def test_cpu_paths_under_address_and_undefined_sanitizer(build):
    sanitizers = "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    exercise(build("paths", list(PATHS), *sanitizers), "cpu")


def test_nvcc_compiles_all_major_architectures(request, tmp_path):
    nvcc = shutil.which("nvcc")
    if not nvcc:
        pytest.skip("nvcc is not here")
    (tmp_path / "empty.cu").touch()
    if run(nvcc, "-c", tmp_path / "empty.cu", "-o", tmp_path / "empty.o").returncode:
        pytest.skip("nvcc cannot compile an empty file here: it lacks its host compiler or headers")
    key, now = "kernels/nvcc", fingerprint(run(nvcc, "--version").stdout)
    if request.config.cache.get(key, None) == now:
        return
    flags = ["-std=c++17", "-arch=all-major", f"--threads={TOGETHER}", "-Werror=all-warnings", f"-I{ROOT / 'csrc'}"]
    for source in CUDA:
        result = run(nvcc, *flags, "-c", ROOT / f"csrc/cuda/{source}.cu", "-o", tmp_path / f"{source}.o")
        assert result.returncode == 0, result.stderr[-4000:]
    request.config.cache.set(key, now)
