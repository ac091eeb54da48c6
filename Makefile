# Everything a newcomer needs: make demo, make test. Both begin with make install.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test check bench clean

install: $(VENV)/.installed

# Pinned, so that every machine gets the same versions; users of `pip install .` get loose bounds instead.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/sparsemix demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m 'not slow'

bench: install
	$(BIN)/python benchmarks/dense_twin.py
	$(BIN)/python benchmarks/train_throughput.py

clean:
	rm -rf $(VENV) build dist
