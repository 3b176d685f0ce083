#!/usr/bin/env bash
# Builds with CUDA, tests, checks with compute-sanitizer and measures on the GPU of this machine. Ends with a short table, and
# with an error if any part failed. The extension of cxrsynth/ops is replaced by this build.
#   OUT=folder benchmarks/gpu.sh        figures go there (default: benchmarks/results)
#   PYTHON=python                       one that has torch with CUDA, pybind11 and pytest
set -u -o pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONPATH="$PWD"

failed=0
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || exit 1
echo "== build"
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
if ! { cmake -S . -B "$build" -DCXRSYNTH_CUDA=on -DCXRSYNTH_CUDA_ARCHS="${CXRSYNTH_CUDA_ARCHS:-native}" \
  -DPython_EXECUTABLE="$(command -v "$PYTHON")" -Dpybind11_DIR="$("$PYTHON" -m pybind11 --cmakedir)" &&
  cmake --build "$build" --parallel; } > "$OUT/gpu_build.txt" 2>&1; then
  tail -30 "$OUT/gpu_build.txt"
  exit 1
fi
rm -f cxrsynth/ops/_kernels*.so
cp "$build"/_kernels*.so cxrsynth/ops/
"$PYTHON" -c "import cxrsynth.ops as o; print(o.build_info())" || exit 1

echo "== tests"
"$PYTHON" -m pytest -q -m cuda -p no:cacheprovider tests 2>&1 | tee "$OUT/gpu_tests.txt" | tail -8 || failed=1

echo "== compute-sanitizer"
if command -v compute-sanitizer > /dev/null; then
  filter=--kernel-name  # of our kernels alone, which all have the namespace in their name
  compute-sanitizer --help 2>&1 | grep -q -e $filter || filter=--kernel-regex  # its name in older toolkits
  for tool in memcheck racecheck synccheck; do
    timeout 300 compute-sanitizer --tool $tool $filter kns=3cxr --error-exitcode 9 \
      "$PYTHON" benchmarks/gpu.py --check > "$OUT/gpu_$tool.txt" 2>&1
    code=$?
    [ $code = 0 ] || failed=1
    echo "$tool: exit $code, $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$OUT/gpu_$tool.txt" | tail -1)"
  done
else
  echo "compute-sanitizer is not here"
fi

echo "== figures"
"$PYTHON" benchmarks/gpu.py 2>&1 | tee "$OUT/gpu.txt" || failed=1
"$PYTHON" benchmarks/sampling_gpu.py phantom 2>&1 | tee "$OUT/sampling_gpu.txt" || failed=1
exit $failed
