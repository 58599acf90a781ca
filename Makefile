# make demo, make test and make check set up everything they need on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.longtake-installed

.PHONY: help demo test check docs format clean

help:
	@echo "make demo [VIDEO=file.mp4]  index a few made videos (and yours), ask a dozen questions, write demo-out/demo.html"
	@echo "make test                   the whole test suite"
	@echo "make check                  format, lint, types, import contract"
	@echo "make docs                   the pages of docs/ with the generated reference, into site/"
	@echo "make format                 rewrite the code in the project's format"

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "longtake: '$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/longtake demo --out demo-out $(if $(VIDEO),--video "$(VIDEO)")

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_import_contract.py

# A dead link or a page that is nowhere in the menu ends it; with --quiet, mkdocs would hide and forgive them.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo-out site .mypy_cache .ruff_cache .pytest_cache .hypothesis
