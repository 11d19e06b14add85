# easq-rec: everything that is set up, run and checked from a checkout. `make` alone lists the targets.
#
#   DEVICE=cuda        install the CUDA builds (default: cpu, or whatever .venv already holds)
#   PYTHON=python3.12  the interpreter that .venv is made with
#   ARGS='...'         arguments of `make train`:    make train ARGS='easq --trainer.max-steps 200'
#   PYTEST_ARGS='...'  arguments of `make test`:     make test PYTEST_ARGS='-k losses -x'
#   JOBS=0             `make test` in one process, as a debugger wants it (default: 2)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

# A bare `make train` after `make setup DEVICE=cuda` keeps to CUDA.
DEVICE ?= $(if $(wildcard $(VENV)/.setup-cuda),cuda,cpu)
OTHER := $(if $(filter cuda,$(DEVICE)),cpu,cuda)

# The same as in pyproject.toml (tests/test_doctor.py holds them equal); here because they are installed one by one.
TORCH := torch==2.13.0
TORCHREC := torchrec==1.8.0

# The oldest versions that the code supports, in an environment of their own that only tests use.
OLDEST := .venv-oldest
OLDEST_TORCH := torch==2.11.0
OLDEST_FBGEMM := fbgemm-gpu-cpu==1.6.0
OLDEST_TORCHREC := torchrec==1.6.1

# --no-warn-conflicts: with the CPU build torchrec's requirement of the CUDA FBGEMM stays unmet on purpose.
PIP_INSTALL := -m pip install -q --disable-pip-version-check --no-warn-conflicts
PIP := $(BIN)/python $(PIP_INSTALL)

# Stamps are written last: an interrupted install has none and is taken up again by the next call.
SETUP := $(VENV)/.setup-$(DEVICE)
DEV := $(VENV)/.setup-dev-$(DEVICE)
DOCS := $(VENV)/.setup-docs-$(DEVICE)
SERVE := $(VENV)/.setup-serve-$(DEVICE)
OLDEST_SETUP := $(OLDEST)/.setup

# One worker takes a whole file of tests.
PYTEST := -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup dev train loop test test-oldest lint format typecheck docs golden clean

help:  ## this list
	@echo 'easq-rec: make TARGET [DEVICE=cpu|cuda] [PYTHON=python3] [ARGS=...] [PYTEST_ARGS=...]'
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

setup: $(SETUP)  ## make .venv and install the pinned dependencies (nothing to do: nothing done)
	@:

dev: $(DEV)  ## the same, with the tools that test, lint and check
	@:

train: $(SETUP)  ## set up, then train `quickstart` on the built-in synthetic world (or what ARGS says)
	@$(BIN)/easq-rec train $(ARGS)

loop: $(SERVE)  ## serve, log, ask, learn, publish, serve: the closed loop with simulated users, about ten minutes
	@$(BIN)/python -m easq_rec.tools.loop $(ARGS)

test: $(DEV)  ## set up, then run the whole test suite, JOBS files at a time
	@$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

test-slow: $(DEV)  ## the tests that `test` leaves out, since each takes minutes, as a whole study does
	@$(BIN)/python $(PYTEST) --slow -m slow $(PYTEST_ARGS)

test-oldest: $(OLDEST_SETUP)  ## the test suite with the oldest supported torch, FBGEMM and TorchRec, on the CPU
	@$(OLDEST)/bin/python $(PYTEST) $(PYTEST_ARGS)

lint: $(DEV)  ## ruff: rules and formatting, changing nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(DEV)  ## ruff: mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: $(DEV)  ## mypy over the packages
	@$(BIN)/mypy

docs: $(DOCS)  ## build the documentation as a site in site/; a broken link fails
	@$(BIN)/python docs/scripts/config_page.py
	@$(BIN)/python docs/scripts/layers_figure.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

golden: $(DEV)  ## record the golden trajectory anew (look at the difference before committing it)
	@$(BIN)/python -m tests.golden --record

clean:  ## remove .venv, .venv-oldest, caches and build output; runs/ and data/ stay
	@rm -rf $(VENV) $(OLDEST) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SETUP): pyproject.toml
	@case '$(DEVICE)' in cpu|cuda) ;; *) echo "DEVICE=$(DEVICE) is not allowed: cpu or cuda" >&2; exit 2;; esac
	@command -v '$(PYTHON)' >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or later, or name one with PYTHON=/path/to/python3" >&2; exit 2; }
	@'$(PYTHON)' -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"$(PYTHON) is Python {v[0]}.{v[1]}: easq-rec needs 3.11 or later. Name one with PYTHON=python3.11")'
	@# Both FBGEMM builds write the same files, so one environment cannot change from one to the other.
	@if [ -e $(VENV)/.setup-$(OTHER) ]; then echo "$(VENV) holds the $(OTHER) build: run 'make clean' first, then make with DEVICE=$(DEVICE)" >&2; exit 2; fi
	@# An interrupted or relocated environment has no working pip.
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "[setup 1/4] $(VENV) with $$('$(PYTHON)' --version)"; \
		'$(PYTHON)' -m venv --clear $(VENV) || { echo "making $(VENV) failed: on Debian and Ubuntu install python3-venv" >&2; exit 2; }; \
	fi
	@echo '[setup 2/4] $(TORCH)'
	@$(PIP) '$(TORCH)'
	@echo '[setup 3/4] easq-rec[$(DEVICE)], editable'
	@$(PIP) -e '.[$(DEVICE)]'
	@echo '[setup 4/4] $(TORCHREC)'
	@$(PIP) --no-deps '$(TORCHREC)'
	@touch $@

$(DEV): $(SETUP)
	@echo '[setup dev] tools for tests and checks'
	@$(PIP) -e '.[$(DEVICE),dev]'
	@touch $@

$(SERVE): $(SETUP)
	@echo '[setup serve] the server'
	@$(PIP) -e '.[$(DEVICE),serve]'
	@touch $@

$(DOCS): $(SETUP)
	@echo '[setup docs] mkdocs'
	@$(PIP) -e '.[$(DEVICE),docs]'
	@touch $@

$(OLDEST_SETUP): pyproject.toml
	@echo '[setup oldest] $(OLDEST_TORCH), $(OLDEST_FBGEMM), $(OLDEST_TORCHREC)'
	@'$(PYTHON)' -m venv --clear $(OLDEST)
	@$(OLDEST)/bin/python $(PIP_INSTALL) '$(OLDEST_TORCH)' '$(OLDEST_FBGEMM)' -e '.[dev]'
	@$(OLDEST)/bin/python $(PIP_INSTALL) --no-deps '$(OLDEST_TORCHREC)'
	@touch $@
