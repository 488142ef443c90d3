# make help lists what can be done. Each target works on a fresh clone: it makes .venv first.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help setup train test test-slow lint bench docs-pictures clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

setup: .venv/dev  ## make .venv with everything that training and development need

train: .venv/run  ## train the quickstart; make train ARGS="data=files data.path=my.txt" for your own text
	$(BIN)/headwise train $(ARGS)

test: .venv/dev  ## run the tests (under ten minutes); make test ARGS="-k attention" for some of them
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

test-slow: .venv/dev  ## run the tests that take minutes each
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 2 --dist loadfile $(ARGS)

lint: .venv/dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/run  ## measure the quickstart against n-gram models, and a step against a plain GPT
	$(BIN)/python benchmarks/quickstart.py
	$(BIN)/python benchmarks/step.py

docs-pictures: .venv/run  ## redraw the pictures of the documents (three minutes of training)
	$(BIN)/python benchmarks/pictures.py

clean:  ## remove .venv and caches; runs/ and data/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Headwise needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/run
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	@touch $@
