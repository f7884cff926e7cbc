# The two commands of the README, and what they share. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
VENV   ?= .venv
CONFIG ?= experiments/quickstart.py
WORKDIR ?= runs/quickstart
BIN    := $(VENV)/bin

.PHONY: quickstart compare test lint bench clean

# Records worlds, trains, generates, evaluates and writes $(WORKDIR)/report.html.
quickstart: $(VENV)/.installed
	$(BIN)/mirage quickstart --config=$(CONFIG) --workdir=$(WORKDIR)

# Trains the two comparison models (no memory, RGB memory) on the same budget and rewrites the report.
compare: $(VENV)/.installed
	$(BIN)/mirage quickstart --config=$(CONFIG) --workdir=$(WORKDIR) --compare

bench: $(VENV)/.installed
	$(BIN)/mirage bench memory

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: setup.cfg pyproject.toml requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c requirements.txt -e '.[worlds]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -q -c requirements.txt -e '.[worlds,text,dev]'
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
