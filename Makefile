# The commands of the README. PYTHON picks the interpreter (3.11 or newer), VENV where it installs.
PYTHON ?= python3
VENV   ?= .venv
CONFIG ?= experiments/quickstart.py
WORKDIR ?= runs/quickstart
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help explore quickstart compare test test-long fuzz faults lint bench docs clean

help: ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

explore: $(VENV)/.installed ## walk through a world in a browser, without training
	$(BIN)/mirage explore --open

quickstart: $(VENV)/.installed ## record worlds, train, generate, evaluate: runs/quickstart/report.html
	$(BIN)/mirage quickstart --config=$(CONFIG) --workdir=$(WORKDIR)

compare: $(VENV)/.installed ## train the two comparison models on the same budget, rewrite the report
	$(BIN)/mirage quickstart --config=$(CONFIG) --workdir=$(WORKDIR) --compare

test: $(VENV)/.installed-dev ## the tests
	$(PYTEST)

test-long: $(VENV)/.installed-dev ## the tests, those marked `long` too
	MIRAGE_TEST_LONG=1 $(PYTEST)

fuzz: $(VENV)/.installed-dev ## read 10,000 damaged files of every format (half an hour)
	$(BIN)/python tests/helpers/fuzzing.py

faults: $(VENV)/.installed-dev ## fail every call of every writer: full disk, kill, error (needs cc)
	$(BIN)/python tests/helpers/faults.py

lint: $(VENV)/.installed-dev ## formatting, lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed ## time the memory
	$(BIN)/mirage bench memory

docs: $(VENV)/.installed-docs ## the documentation site: build/docs/index.html
	$(BIN)/python docs/build.py

clean: ## remove what was built; runs/ and .venv/ stay
	rm -rf build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache docs/reference docs/notebooks/*.md

# pip, with the versions that the tests were run with.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -q -c requirements.txt

$(VENV)/.installed: setup.cfg pyproject.toml requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[worlds,explore]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[worlds,miniworld,openarena,explore,text,dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	touch $@
