# make demo    a whole run on letters of many fonts, with its pictures, in runs/demo
# make test    lint, types and the quick tests        make test-all   the slow ones, too
# make drills  commands killed, files damaged and disks that fail, in hundreds: an hour
# make lint    lint and types only                    make clean      remove what make and the tests made
# make docs    the documentation as a site, in build/site; nothing in it is loaded from elsewhere
# The first call makes .venv; later calls use it again until pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

# Busy-waiting OpenMP threads slow a step tenfold beside any other busy process.
export OMP_WAIT_POLICY := passive

.PHONY: help install demo test test-all drills lint docs clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/  make/p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null \
	  || { echo "there is no $(PYTHON). On Debian or Ubuntu: sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bootdiff needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`." \
	            "Install a newer one and call: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments: its ensurepip is missing." \
	            "On Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/bootdiff demo --out runs/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not drill"

drills: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m drill

docs: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "build/site/index.html"

clean:
	rm -rf $(VENV) runs/demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
