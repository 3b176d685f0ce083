"""Builds cxrsynth/ops/_kernels with CMake; everything else is in pyproject.toml.

Environment:
    CXRSYNTH_CUDA: auto (default: when a working nvcc is found), on (fail without one) or off.
    CXRSYNTH_CUDA_ARCHS: CMake's CUDA_ARCHITECTURES, as "90" or "80;90". Default: all-major with PTX for later ones.
    TORCH_CUDA_ARCH_LIST: torch's spelling ("8.0;9.0+PTX"), used where CXRSYNTH_CUDA_ARCHS is not set.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def cuda_architectures() -> str:
    """The architectures to compile for, in CMake's spelling."""
    if named := os.environ.get("CXRSYNTH_CUDA_ARCHS"):
        return named
    architectures = []
    for name in os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(",", ";").replace(" ", ";").split(";"):
        number = name.removesuffix("+PTX").replace(".", "")
        if number.removesuffix("a").isdigit():  # torch also takes names such as "Hopper"; those are left out
            architectures.append(number if name.endswith("+PTX") else f"{number}-real")
    return ";".join(architectures) or "all-major"


class CMakeBuild(build_ext):
    """Configures and builds the extension in the build folder, then puts it where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        """Run CMake for `ext`."""
        import pybind11

        cuda = os.environ.get("CXRSYNTH_CUDA", "auto").lower()
        if cuda not in ("auto", "on", "off"):
            raise SystemExit(f"CXRSYNTH_CUDA is {cuda!r}; it must be auto, on or off")
        source = Path(__file__).resolve().parent
        build = Path(self.build_temp).resolve() / "cmake"
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        cmake = shutil.which("cmake") or "cmake"
        configure = [
            cmake, "-S", str(source), "-B", str(build), "--fresh",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCXRSYNTH_CUDA={cuda}",
            f"-DCXRSYNTH_CUDA_ARCHS={cuda_architectures()}",
        ]  # fmt: skip
        if ninja := shutil.which("ninja"):
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(build), "--parallel"], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(build / target.name, target)


setup(
    ext_modules=[Extension("cxrsynth.ops._kernels", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
