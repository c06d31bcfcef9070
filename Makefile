# `make demo` and `make test` need only Python (3.11 or newer) and make: they build .venv first.

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
MINUTES ?= 60
DATA ?=

VENV := .venv
BIN := $(VENV)/bin
FOR_DEMO := $(VENV)/.installed-demo
INSTALLED := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished
FOR_DOCS := $(VENV)/.docs
CONSTRAINTS := constraints/py311.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow dist-test docs lint format bench evidence tables clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s%s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "PYTHON=/path/to/python3 chooses the Python that .venv is built from."

install: $(INSTALLED) ## build .venv, if it is missing or out of date

# Two levels in one .venv: what the demo needs, and what tests and lint need besides.
$(FOR_DEMO): EXTRA := demo
$(INSTALLED): EXTRA := dev

# An interrupted installation leaves $(UNFINISHED) behind, and the next one starts anew.
$(FOR_DEMO) $(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "weightcast needs Python 3.11 or newer, and '$(PYTHON)' is not that:" \
			"name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' comes without venv and ensurepip: install them (on Debian and Ubuntu:" \
			"apt-get install python3-venv), or name another with make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@if [ -e $(UNFINISHED) ]; then rm -rf $(VENV); fi
	@mkdir -p $(VENV)
	@touch $(UNFINISHED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[$(EXTRA)]'
	@rm $(UNFINISHED)
	@touch $(FOR_DEMO) $@

demo: $(FOR_DEMO) ## train, compare and draw on 5,000 digits: weightcast-demo/index.html
	$(BIN)/weightcast demo $(ARGS)

# One thread per worker: more would only get in each other's way.
test: $(INSTALLED) ## run the tests, but for those marked slow
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

test-slow: $(INSTALLED) ## run those marked slow: sweeps that are killed, a Ray cluster
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

dist-test: ## build sdist and wheel, and try them in empty environments of Python 3.11 to 3.13
	$(PYTHON) tests/release/distribution.py $(ARGS)

# What the site needs beyond the tests' packages, once.
$(FOR_DOCS): $(INSTALLED)
	$(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[docs]'
	@touch $@

docs: $(FOR_DOCS) ## build the documentation site, its gallery executed: build/site/index.html
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
		$(BIN)/python -m sphinx -W --keep-going -d build/doctrees $(ARGS) docs build/site

lint: export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
lint: $(INSTALLED) ## check style, types and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## time predicted layers in turn with dense ones; ARGS="--preset cpu" for more
	$(BIN)/weightcast bench $(ARGS)

# Ends by Ctrl-C too; the next call goes on. DATA says where the data lie: docs/evidence.md.
evidence: $(INSTALLED) ## long runs in idle time: MINUTES=60 DATA=...; ARGS=--list shows the queue
	$(BIN)/python -m weightcast_lab.studies.evidence --minutes $(MINUTES) --data "$(DATA)" $(ARGS)

tables: $(INSTALLED) ## write the docs' tables anew from results/; ARGS=--check says what differs
	$(BIN)/python -m weightcast_lab.report.docs_tables $(ARGS)

clean: ## remove .venv, caches and what the demo wrote
	rm -rf $(VENV) weightcast-demo build dist
	rm -rf docs/gallery docs/sg_execution_times.rst
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests examples -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
