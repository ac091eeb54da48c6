# Everything a newcomer needs: make demo, make test. Both begin with make install.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LLAMA := .venv-llama
# A process a core, each with one thread of torch (tests/conftest.py); who has no more to do takes tests of others.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: install demo test test-slow check bench docs clean

install: $(VENV)/.installed

# Pinned, so that every machine gets the same versions; users of `pip install .` get loose bounds instead.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/sparsemix demo

test: install
	$(PYTEST)

# llama.cpp is built once, which takes minutes, into an environment of its own.
$(LLAMA)/.installed: constraints-llama.txt
	$(PYTHON) -m venv $(LLAMA)
	CMAKE_ARGS=-DLLAVA_BUILD=OFF $(LLAMA)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints-llama.txt llama-cpp-python
	touch $@

test-slow: install $(LLAMA)/.installed
	$(PYTEST) -m llama_cpp

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(PYTEST) -m 'not slow'

# What runs on a CPU; benchmarks/gpu_layer.py is for a machine with a GPU. The page is made of all results there are.
BENCHMARKS := layer growth one_token memory generation train_throughput dense_twin

bench: install
	set -e; for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py; done
	$(BIN)/python benchmarks/report.py

# The README's tree, and the pages made of configs and results.
docs: install
	$(BIN)/python tools/tree.py
	$(BIN)/python tools/routers_page.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/interop_page.py
	$(BIN)/python benchmarks/classic_page.py

clean:
	rm -rf $(VENV) $(LLAMA) build dist
