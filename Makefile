# make train    set everything up and distil a one-step student of the digits teacher (offline, no GPU)
# make test     set everything up and run the tests; make test-all the slow ones too
# make check    lint, format, types, and the direction of imports
# make bench    speed and memory of a DMD step and of several processes, as ratios
# make docs     the documentation as a site, in site/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup setup-dev train evaluate test test-all check bench docs clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The stamps are renewed when the dependencies change. What is imported here is compiled once and kept, also in a
# container that sets PYTHONDONTWRITEBYTECODE, as many do, and would compile torch anew for every command.
export PYTHONDONTWRITEBYTECODE =
USED := engine.run commands.evaluate report.write distillation.preparation text_to_3d.preparation \
	teacher_training.preparation attribution.measure
COMPILE := for module in $(USED); do echo import carv_distill.$$module; done | $(BIN)/python -

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[text-to-3d,attribution,text-to-image]'
	$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev,docs]'
	$(COMPILE)
	@touch $@ $(VENV)/.installed

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

train: setup
	$(BIN)/python train.py --config configs/dmd_carv.yaml

evaluate: setup
	$(BIN)/python evaluate.py

test: setup-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: setup-dev
	$(BIN)/python -m pytest -m 'not gpu'

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup-dev
	$(BIN)/python -m benchmarks.dmd_step
	$(BIN)/python -m benchmarks.scale

docs: setup-dev
	$(BIN)/python docs/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "written to site/; open site/index.html, or serve it: python -m http.server -d site"

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache site
