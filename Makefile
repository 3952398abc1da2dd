# Rung. `make` lists the targets. Each sets up what it needs: Python 3.11 or newer and a C compiler are enough.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.run-stamp
DEV    := $(VENV)/.dev-stamp
BENCH  := $(VENV)/.bench-stamp
SILICON := $(VENV)/.silicon-stamp
DEMO   ?= demo

export HF_HUB_OFFLINE = 1
export HF_DATASETS_OFFLINE = 1

.DEFAULT_GOAL := help
.PHONY: help demo silicon test smoke lint types layers check bench family aarch64-root clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Rung needs Python 3.11 or newer; set PYTHON=" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(RUN): $(VENV)/pyvenv.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[build,eval,serve]'
	@touch $@

$(DEV): $(RUN) pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(SILICON): $(RUN) pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[build,eval,serve,silicon]'
	@touch $@

demo: $(RUN) ## Build, judge, approve, release and serve the demo family (in ./demo)
	$(BIN)/python -m pipeline.demo.run $(DEMO)

silicon: $(SILICON) ## Build one checkpoint for CPUs, GPUs and NPUs of six vendors (in ./silicon)
	$(BIN)/python -m pipeline.demo.silicon silicon

test: $(DEV) ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

smoke: $(DEV) ## Run the quick part of the tests
	$(BIN)/python -m pytest -m smoke

aarch64-root: $(RUN) ## Make the AArch64 userland in which artifacts for Arm are rehearsed under QEMU
	$(BIN)/python -m compilers.aarch64_emulation.root .aarch64-root

lint: $(DEV) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## Check types
	$(BIN)/mypy

layers: $(DEV) ## Check that packages import only from those below them
	$(BIN)/lint-imports

check: lint types layers test ## Everything that CI checks on the source

$(BENCH): $(DEV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	@touch $@

bench: $(BENCH) ## Measure speeds as ratios against named alternatives (about 20 minutes)
	$(BIN)/python -m benchmarks.run

family: $(DEV) ## Train the demo family again (about 30 minutes)
	$(BIN)/python -m pipeline.demo.train --out pipeline/demo/family

clean: ## Remove the environment, the demo and caches
	rm -rf $(VENV) $(DEMO) silicon build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
