# `make demo` and `make test` do everything on a fresh machine that has Python 3.11+ and a C++ compiler.
PYTHON ?= python3
VENV := .venv
ARCHIVE ?= ../shared/cxr
BIN := $(VENV)/bin
SOURCES := $(wildcard csrc/*.* csrc/*/*) setup.py CMakeLists.txt pyproject.toml constraints.txt

.PHONY: demo test sanitize lint bench gpu clean

demo: $(VENV)/installed  ## paint diseases into a phantom archive; ends with runs/demo/report.html; SCRATCH=1: without shipped weights
	$(BIN)/cxrsynth run --config lightning_configs/quickstart.yaml $(if $(SCRATCH),--scratch)
	@echo "the page: runs/demo/report.html"

test: $(VENV)/installed  ## run every test that this machine can run; the summary names what was skipped and why
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow"

sanitize: $(VENV)/installed  ## the CUDA kernels' own source on the CPU, under address, undefined and thread sanitizers
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed  ## style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/installed  ## speed against peers in the same run; writes benchmarks/results/
	$(BIN)/python benchmarks/registration.py $(if $(wildcard $(ARCHIVE)/images),--folder $(ARCHIVE)) | tee benchmarks/results/registration.txt
	$(BIN)/python benchmarks/warp.py | tee benchmarks/results/warp.txt

gpu:  ## on a machine with a GPU and its own torch: build, test, sanitise, measure
	bash benchmarks/gpu.sh

$(VENV)/installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	touch $@

clean:
	rm -rf build dist *.egg-info $(VENV)
