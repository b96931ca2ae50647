# `make demo` and `make test` set up all they need, in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint types docs docs-version hooks setup clean

demo: .venv/.demo
	$(BIN)/python examples/demo.py runs/demo

test: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

# The site, in build/site. Any warning is an error.
docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The site of one version, as a commit on the local branch gh-pages: make docs-version VERSION=0.1
docs-version: .venv/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mike deploy --update-aliases $(VERSION) latest
	$(BIN)/mike set-default latest

# Everything that a commit is checked for, on all files.
hooks: .venv/.dev
	$(BIN)/pre-commit run --all-files

setup: .venv/.dev

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lrpet needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

# The pip that comes with Python may be older than dependency groups.
.venv/.pip: | .venv/bin/python
	$(PIP) 'pip>=25.1'
	touch $@

.venv/.demo: pyproject.toml | .venv/.pip
	$(PIP) -e '.[train,onnx]' --group demo
	touch $@

# ExecuTorch brings a torchao that old releases of torch cannot import, so it is left out where releases are constrained.
.venv/.dev: pyproject.toml | .venv/.pip
	$(PIP) -e '.[$(if $(PIP_CONSTRAINT),,executorch,)train,data,onnx,openvino,huggingface,lightning,postgresql]' --group dev
	touch $@ .venv/.demo

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
