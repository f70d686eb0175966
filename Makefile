# make demo: set up, and label bundled reviews and comments.   make test: set up, and run the tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CONSTRAINTS := constraints/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test soak check fix bench bench-against bench-large bench-predecessor diagram constraints clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/installed ## label bundled reviews and comments, in under a minute
	@AUDIENCE_HOME=demo/home $(BIN)/audience demo --folder demo

test: $(VENV)/installed-dev ## all tests, two files at a time
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations=20

SOAK ?= 50

soak: $(VENV)/installed-dev ## runs whose workers are killed and put to sleep at random; SOAK=50 rounds
	AUDIENCE_SOAK=$(SOAK) $(BIN)/python -m pytest tests/soak

check: $(VENV)/installed-dev ## style, types, imports; reports only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/diagram.py --check

fix: $(VENV)/installed-dev ## mend style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

diagram: $(VENV)/installed-dev ## draw the packages and their imports into docs/architecture.md
	$(BIN)/python docs/diagram.py

bench: $(VENV)/installed-bench ## speed and memory side by side with the row-wise baseline
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/service.py
	$(BIN)/python benchmarks/databases.py

bench-against: $(VENV)/installed-bench ## speed and memory side by side with another checkout: make BEFORE=../before bench-against
	$(BIN)/python benchmarks/against.py $(BEFORE)
	$(BIN)/python benchmarks/against.py $(BEFORE) --databases

bench-predecessor: $(VENV)/installed-bench ## as many rows as the predecessor published, MariaDB to MariaDB; 20 GB of disk
	$(BIN)/python benchmarks/databases.py --predecessor

bench-large: $(VENV)/installed-bench ## memory on ten and twenty million rows
	$(BIN)/python benchmarks/bench.py --large
	$(BIN)/python benchmarks/databases.py --large

constraints: $(VENV)/installed-dev ## lock the newest versions again
	$(PIP) install uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --group bench --universal --python-version 3.11 \
		--no-emit-index-url --no-header --no-annotate --upgrade --quiet --output-file $(CONSTRAINTS)

clean: ## remove what the other targets made
	rm -rf $(VENV) demo benchmarks/data benchmarks/others .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Audience needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "This Python lacks venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml $(CONSTRAINTS)
	@$(PIP) install --constraint $(CONSTRAINTS) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(PIP) install --constraint $(CONSTRAINTS) --editable ".[all]" --group dev
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed-dev
	@# apart from ours: Arrow imports pandas wherever it finds it, 50 MB in every process
	@$(PIP) install --constraint $(CONSTRAINTS) --target benchmarks/others --upgrade --group bench
	@# its applier alone: what it asks for beside would be gigabytes
	@$(PIP) install --target benchmarks/others --upgrade --no-deps snorkel==0.10.0
	@touch $@
