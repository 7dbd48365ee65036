# make demo | test | lint | engines | bench: each sets up what it needs. See README.md.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLATFORM ?= process
WORKERS ?= 3
PLUGINS := plugins/server plugins/storage plugins/docker plugins/singularity examples
EDITABLE := $(foreach path,. $(PLUGINS),-e $(path))
PROJECTS := pyproject.toml $(PLUGINS:%=%/pyproject.toml)

.PHONY: help setup demo test lint engines engines-stop soak bench clean

help:
	@echo "make demo [PLATFORM=docker|singularity]  walk the model owner's journey from start to end"
	@echo "make test                    run the tests with what this machine has"
	@echo "make lint                    check style, types and the floors"
	@echo "make engines                 install and start the engines that the rest of the tests use (root, Debian)"
	@echo "make engines-stop            stop what make engines started"
	@echo "make soak                    kill -9 the journey at 100 moments (15 minutes)"
	@echo "make bench                   measure start-up times (docs/performance.md)"
	@echo "make clean                   remove what the other targets made here"

$(VENV)/.installed: $(PROJECTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(EDITABLE)
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

setup: $(VENV)/.developing

demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/demo.sh $(PLATFORM)

test: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: setup
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary medperf_core $(wildcard plugins/*/src) examples/src/medperf_examples examples/plugins/synapse/src tests/engines
	$(BIN)/lint-imports --no-cache >/tmp/lint-imports.$$$$ || { cat /tmp/lint-imports.$$$$; exit 1; }

engines:
	$(PYTHON) -m tests.engines start

engines-stop:
	$(PYTHON) -m tests.engines stop

soak: setup
	$(BIN)/python -m tests.faults 100

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
