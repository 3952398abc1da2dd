# Rung. `make` lists the targets. Each sets up what it needs: Python 3.11 or newer and a C compiler are enough.

PYTHON ?= $(shell for p in $(PYTHONS:%=python%) python3; do $$p -c '' 2>/dev/null && { echo $$p; break; }; done)
# The Pythons that Rung has locks for: exact versions with hashes, in locks/.
PYTHONS := 3.11 3.12 3.13
# An index to take torch from besides pip's own, for example one with builds for the CPU alone.
TORCH_INDEX ?=
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    := $(VENV)/.run-stamp
DEV    := $(VENV)/.dev-stamp
BENCH  := $(VENV)/.bench-stamp
REAL   := $(VENV)/.real-stamp
SILICON := $(VENV)/.silicon-stamp
PINS   := $(VENV)/pins.txt
LATEST := .venv-latest
LOCKER := .venv-lock
DEMO   ?= demo
CLOCK  := $(VENV)/clock.so
# Tests of code that reads no clock but for durations.
CLOCKLESS := compilers evals benchmarks

PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest -n 2 --dist loadfile
LOCKED := $(PIP) --no-deps --no-build-isolation
TORCH   = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r locks/torch.txt
# The locks of the environment's Python.
LOCK    = locks/$(shell { $(BIN)/python -V || $(PYTHON) -V; } 2>/dev/null | sed -nE '1s/Python ([0-9]+\.[0-9]+).*/\1/p')

export HF_HUB_OFFLINE = 1
export HF_DATASETS_OFFLINE = 1

.DEFAULT_GOAL := help
.PHONY: help demo real silicon test test-latest test-next-year soak smoke lint types layers check reference lock bench family \
  aarch64-root clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/pyvenv.cfg:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1:])' $(PYTHONS) || { \
	  echo "error: Rung has locks for Python $(PYTHONS), and \`$(PYTHON)\` is $$($(PYTHON) -V 2>&1)" >&2; \
	  echo "hint: install one of them, or name it: make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The locks' versions without their hashes, to hold what is installed by name.
$(PINS): $(VENV)/pyvenv.cfg $(wildcard locks/*/*.txt)
	@sed -n 's/^\([a-z0-9.-]*==[^ ]*\).*/\1/p' $(LOCK)/*.txt >$@

# torch first (with setuptools: a few of the locked packages are published as source), then the lock, then Rung itself.
$(RUN): $(PINS) pyproject.toml locks/torch.txt
	$(PIP) --constraint $(PINS) $(TORCH) setuptools
	$(LOCKED) --require-hashes -r $(LOCK)/run.txt
	$(LOCKED) --editable .
	@touch $@

$(REAL): $(RUN)
	$(LOCKED) --require-hashes -r $(LOCK)/real.txt
	@touch $@

$(SILICON): $(RUN)
	$(LOCKED) --require-hashes -r $(LOCK)/silicon.txt
	@touch $@

$(DEV): $(REAL) $(SILICON)
	$(LOCKED) --require-hashes -r $(LOCK)/dev.txt
	@touch $@

demo: $(RUN) ## Build, judge, approve, release and serve the demo family (in ./demo)
	$(BIN)/python -m pipeline.demo.run $(DEMO)

real: $(REAL) ## The same with SmolLM2-135M-Instruct, a real checkpoint from PyPI (in ./real)
	$(BIN)/python examples/smollm2/run.py real

silicon: $(SILICON) ## Build one checkpoint for CPUs, GPUs and NPUs of six vendors (in ./silicon)
	$(BIN)/python -m pipeline.demo.silicon silicon

test: $(DEV) ## Run the tests
	$(BIN)/python $(PYTEST)

test-latest: ## Run the tests with the newest of everything that pyproject.toml admits (in .venv-latest)
	test -e $(LATEST)/pyvenv.cfg || $(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip install --quiet --upgrade pip
	$(LATEST)/bin/python -m pip install --quiet $(TORCH)
	$(LATEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --constraint locks/torch.txt --editable '.[dev]'
	$(LATEST)/bin/python $(PYTEST)

$(CLOCK): .ci/clock.c $(VENV)/pyvenv.cfg
	$(CC) -shared -fPIC -O2 -o $@ $< -ldl

test-next-year: $(DEV) $(CLOCK) ## Run the tests of what reads the clock a year ahead (on Linux)
	AHEAD_S=31536000 LD_PRELOAD=$(abspath $(CLOCK)) $(BIN)/python -c 'import time; print(time.strftime("the tests run on %F"))'
	AHEAD_S=31536000 LD_PRELOAD=$(abspath $(CLOCK)) $(BIN)/python $(PYTEST) $(CLOCKLESS:%=--ignore tests/%)

soak: $(DEV) ## Kills, damaged files and requests, idle connections and load, on a finished `make demo` (about 40 minutes)
	$(BIN)/python -m tests.campaigns.run $(DEMO) --out benchmarks/SOAK.md

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

reference: $(DEV) ## Write the reference that is made from the code (docs/reference)
	$(BIN)/python -m pipeline.reference.write docs/reference

lock: ## Move the locks to the newest of everything that pyproject.toml admits
	test -e $(LOCKER)/pyvenv.cfg || $(PYTHON) -m venv $(LOCKER)
	$(LOCKER)/bin/python -m pip install --quiet --upgrade 'uv>=0.13,<0.14'
	locks/refresh $(LOCKER)/bin/uv $(PYTHONS)

# What is measured against is no dependency of Rung and has no lock; llama.cpp is compiled for the processor at hand.
$(BENCH): $(DEV)
	$(PIP) --constraint $(PINS) --constraint locks/torch.txt --editable '.[bench]'
	@touch $@

bench: $(BENCH) ## Measure speeds as ratios against named alternatives (about 20 minutes)
	$(BIN)/python -m benchmarks.run

family: $(DEV) ## Train the demo family again (about 30 minutes)
	$(BIN)/python -m pipeline.demo.train --out pipeline/demo/family

clean: ## Remove the environments, the demo and caches
	rm -rf $(VENV) $(LATEST) $(LOCKER) $(DEMO) real silicon build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
