# make train    set everything up and distil a one-step student of the digits teacher (offline, no GPU)
# make test     set everything up and run the tests
# make check    lint, format and types
# make bench    speed and memory of a DMD step and of several processes, as ratios

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup train evaluate test test-all check bench clean

help:
	@sed -n 's/^# //p' Makefile

# The stamp is renewed when the dependencies change.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(VENV)/.installed

train: setup
	$(BIN)/python train.py --config configs/dmd_carv.yaml

evaluate: setup
	$(BIN)/python evaluate.py

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: setup
	$(BIN)/python -m pytest -m 'not gpu'

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.dmd_step
	$(BIN)/python -m benchmarks.scale

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
