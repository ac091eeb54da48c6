"""What importing costs, and that every public name is there."""

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sparsemix

ROOT = Path(sparsemix.__file__).parents[1]


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_pydantic():
    heavy = "{'torch', 'numpy', 'pydantic', 'tyro', 'tokenizers', 'safetensors'}"
    assert run(f"import sys, sparsemix; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_importing_the_package_is_quick():
    def seconds() -> float:
        start = time.perf_counter()
        run("import sparsemix")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5  # most of it is the interpreter's own start


@pytest.mark.parametrize("name", sparsemix.__all__)
def test_every_public_name_is_there(name):
    value = getattr(sparsemix, name)
    if name != "__version__":
        home = importlib.import_module(value.__module__)
        assert home.__name__.startswith("sparsemix.")
        assert getattr(home, value.__name__) is value
        assert value.__doc__
    assert name in dir(sparsemix)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sparsemix' has no attribute 'nothing'"):
        sparsemix.nothing  # noqa: B018


def test_importing_draws_no_random_numbers_and_sets_nothing():
    code = """
import torch
before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
import sparsemix
for name in sparsemix.__all__: getattr(sparsemix, name)
after = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
print(before[0].equal(after[0]) and before[1:] == after[1:])
"""
    assert run(code) == "True"
