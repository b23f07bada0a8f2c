# Everything from a clean clone: git, make, python3 (3.11 or newer) with venv, and PyPI.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test lint check bench fuzz lock clean

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
# Wheels alone, and only the files whose hashes are locked: nothing downloaded runs code while it is installed.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r
# Build tools come from the lock too, so the build needs no network of its own.
EDITABLE := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .

help:
	@echo "make run      start FrostGate with its own servers, no Docker   (ARGS=\"--http-port 9000\")"
	@echo "make test     run every test                                    (ARGS=\"-k receipt\")"
	@echo "make lint     ruff, mypy --strict, import contracts"
	@echo "make check    lint, then test"
	@echo "make bench    measure it on this machine beside two references  (ARGS=\"--seconds 5\")"
	@echo "make fuzz     throw bytes at whatever reads requests, 60 s a target  (ARGS=600 for more seconds)"
	@echo "make lock     re-make the lock files from pyproject.toml        (ARGS=--upgrade for the newest versions)"
	@echo "make clean    remove .venv, caches and builds; data in .frostgate stays"

run: .venv/run.stamp
	@exec $(BIN)/frostgate up $(ARGS)

# Tests mostly wait for servers, so two files run at a time, the short ones last. What measures this machine runs alone.
ALONE := tests/integration/test_bench.py

test: .venv/dev.stamp
ifeq ($(strip $(ARGS)),)
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore $(ALONE)
	$(BIN)/pytest $(ALONE)
else
	$(BIN)/pytest $(ARGS)
endif

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

bench: .venv/bench.stamp
	@exec $(BIN)/frostgate bench $(ARGS)

fuzz: .venv/fuzz.stamp
	@exec $(BIN)/python -m tests.fuzz $(or $(ARGS),60)

lock:
	@PYTHON=$(PYTHON) scripts/lock $(ARGS)

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench-report.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("FrostGate needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "set-up: creating .venv"
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }

# A stamp says that its lock and the project itself are installed; it is older than neither of them.
.venv/run.stamp: requirements.lock
.venv/dev.stamp: requirements-dev.lock
.venv/bench.stamp: requirements-bench.lock
.venv/fuzz.stamp: requirements-fuzz.lock
.venv/%.stamp: pyproject.toml .venv/bin/python
	@echo "set-up: installing $(filter %.lock,$^) (about a minute the first time)"
	@$(INSTALL) $(filter %.lock,$^)
	@$(EDITABLE)
	@touch $@
