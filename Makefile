# Each target sets up .venv by itself on a machine with Python, git and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
TESTS ?= tests i2p_zoo

.PHONY: demo test check docs workflows long lowest release bench clean
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

demo: $(READY) ## convert, certify, finetune and draw, in out/demo
	$(BIN)/i2p-zoo demo

check: docs ## style, types, the layers and the site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY) ## the site, in out/site; a broken link or an undocumented public name is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

test: check ## style, types and the default tests
	$(BIN)/python -m pytest -n 2

long: $(READY) ## the tests that take minutes
	$(BIN)/python -m pytest -n 2 -m long

workflows: $(READY) ## the workflows of GitHub, by actionlint, whose wheel fetches it from there
	$(BIN)/python -m pip install --quiet --group workflows
	$(BIN)/actionlint

lowest: $(READY) ## the default tests with the lowest versions that pyproject.toml allows, on the oldest Python
	$(BIN)/python -m pip install --quiet --group release
	$(BIN)/uv venv --quiet --clear --python 3.10 .venv/lowest
	$(BIN)/uv pip install --quiet --python .venv/lowest --resolution lowest-direct --editable '.[app,data,demo,e57,lora,onnx,spconv,triton]'
	$(BIN)/uv pip install --quiet --python .venv/lowest --group tests
	.venv/lowest/bin/python -m pytest -n 2 -W default $(TESTS)

release: $(READY) ## sdist and wheel in dist/, checked, and the wheel with each extra in an environment of its own
	$(BIN)/python -m pip install --quiet --group release
	$(BIN)/python .ci/release.py

bench: $(READY) ## ours against the peers, in turns; nothing else should run on the machine
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv out dist
