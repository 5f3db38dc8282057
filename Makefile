# Each target sets up .venv by itself on a machine with Python, git and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test check long bench clean
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

demo: $(READY) ## convert, certify, finetune and draw, in out/demo
	$(BIN)/i2p-zoo demo

check: $(READY) ## style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## style, types and the default tests
	$(BIN)/python -m pytest -n 2

long: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -n 2 -m long

bench: $(READY) ## ours against the peers, in turns; nothing else should run on the machine
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv out dist
