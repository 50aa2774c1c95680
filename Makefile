# make train: a trained network from a fresh clone.  make test: lint, types, tests.  Both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PROCESSES ?= 2
CONFIG ?= configs/experiments/digits.yaml
ARGS ?=

# Set, it makes each of the many processes of the tests compile the package again.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help setup train quick test full suite lint types wheel audit docs bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## make .venv with the tested versions of constraints.txt

$(VENV)/.trains: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 to 3.13; give one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.ready: $(VENV)/.trains
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

train: $(VENV)/.trains  ## train on the embedded digits with two processes (PROCESSES=, CONFIG=, ARGS=)
	$(BIN)/accelerate launch --config_file configs/accelerate/cpu.yaml --num_processes $(PROCESSES) \
		-m scaled_sgd.train --config $(CONFIG) $(ARGS)

quick: setup  ## fast tests, none that start processes, draw, compile or take a second; half of the random examples
	$(MAKE) suite TESTS='-m "not slow and not full" --hypothesis-profile quick'

# Types are checked, on one core, beside the tests, which often wait.
test: lint  ## lint, type check and all tests but those that are long by nature
	$(MAKE) --jobs=2 types suite TESTS='-m "not full"'

full: lint  ## everything: also the soak, more kill points, whole tables and five times the random examples
	$(MAKE) --jobs=2 types suite TESTS='--hypothesis-profile full'

# In the order of tests/conftest.py: files with most tests are not those that take longest.
suite: setup
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

wheel: setup  ## build the wheel into dist/ and use it in an environment of its own, outside the clone
	$(BIN)/python .ci/wheel.py dist

audit: setup  ## what is installed is what requirements-locked.txt pins, with a hash for each file
	$(BIN)/python .ci/audit.py

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs  ## the documentation as site/index.html; a dead link fails
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

bench: setup  ## speed, as ratios measured side by side
	$(BIN)/python -m benchmarks --json benchmarks/results

clean:  ## remove .venv, site/ and caches; runs/ stays
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache
