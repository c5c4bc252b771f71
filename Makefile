# `make demo` and `make test` need nothing but Python 3.11 or later: they make their own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
# Processes that share the tests, up to 1 GB each. OpenMP and BLAS get one thread in each: by themselves they start as
# many as there are processors, which then wait for each other.
WORKERS ?= 2
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: help demo test test-long lint docs format clean

help:
	@echo "make demo       a synthetic rock through the whole workflow, into demo-output/"
	@echo "make test       the test suite"
	@echo "make test-long  the tests that take minutes, among them the full-size map"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the documentation, into docs/_build/index.html"
	@echo "make clean      remove what the others made"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test,lint,docs]"
	touch $@

demo: $(READY)
	$(BIN)/eds-chunked demo demo-output --overwrite

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --hypothesis-profile repeatable

test-long: $(READY)
	$(BIN)/python -m pytest -m long --timeout 3600

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going --quiet --builder html docs docs/_build

format: $(READY)
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-output docs/_build build dist *.egg-info
