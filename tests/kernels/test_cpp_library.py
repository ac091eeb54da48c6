"""How the compiled library is built, kept and done without."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cpp_cases import needs_a_compiler

from sparsemix.kernels import cpp
from sparsemix.kernels.cpp import library as built

HELLO = """
import torch
from sparsemix import GLUExpertsConfig, MoEConfig
from sparsemix.kernels.backend import choose_backend
from sparsemix.kernels import ExpertWeights
moe = MoEConfig(num_experts=3, experts=GLUExpertsConfig(hidden=4)).build(8)
moe(torch.randn(5, 8))[0].sum().backward()
with torch.no_grad():
    moe(torch.randn(1, 8))
weights = ExpertWeights(moe.experts.gate_up_EFD, moe.experts.down_EDF)
choice = choose_backend("auto", torch.zeros(1, 8), weights)
print(choice.name, "|", choice.reason)
"""


def hello(cache: Path, **environment: str) -> str:
    everything = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", HELLO], env=everything, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@needs_a_compiler
def test_is_built_once(tmp_path):
    assert hello(tmp_path) == "cpp | float32 on a CPU"
    (library,) = (tmp_path / "sparsemix").iterdir()
    before = library.stat().st_mtime_ns
    assert hello(tmp_path) == "cpp | float32 on a CPU"
    assert [path.stat().st_mtime_ns for path in (tmp_path / "sparsemix").iterdir()] == [before]


@pytest.mark.slow
@needs_a_compiler
def test_processes_that_start_together_may_all_build_it(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(hello, [tmp_path] * 3)) == {"cpp | float32 on a CPU"}
    assert len(list((tmp_path / "sparsemix").iterdir())) == 1


def test_without_a_compiler_there_is_another_back_end(tmp_path):
    assert hello(tmp_path, CXX=str(tmp_path / "none")).startswith("cpu | cpp refuses the compiled library: [Errno 2]")


def compiler_that_says(what: str, folder: Path) -> str:
    compiler = folder / "compiler"
    compiler.write_text(f"#!/bin/sh\nprintf '{what}' >&2; exit 1\n")
    compiler.chmod(0o755)
    return str(compiler)


def test_a_compiler_that_fails_is_quoted(tmp_path):
    said = hello(tmp_path, CXX=compiler_that_says("unknown option -march", tmp_path))
    assert said == "cpu | cpp refuses what the C++ compiler says: unknown option -march"


def test_even_in_bytes_that_are_no_text(tmp_path):
    said = hello(tmp_path, CXX=compiler_that_says(r"no \377", tmp_path))
    assert said == "cpu | cpp refuses what the C++ compiler says: no \N{REPLACEMENT CHARACTER}"


def test_where_nobody_is_at_home_there_is_another_back_end(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr(Path, "home", nowhere)
    found = built.library.__wrapped__()
    assert found == (None, "the compiled library: Could not determine home directory.")


@needs_a_compiler
def test_a_cache_that_cannot_be_written_costs_the_back_end_only(tmp_path):
    (tmp_path / "sparsemix").write_text("a file where the folder should be")
    assert hello(tmp_path).startswith("cpu | cpp refuses the compiled library: ")


def test_what_it_refuses():
    x_TD = torch.ones(3, 4)
    assert cpp.refuses(x_TD, None, x_TD) == built.library().reason
    assert cpp.refuses(x_TD, x_TD.double()) == "the type torch.float64"
    assert cpp.refuses(x_TD.bfloat16(), x_TD) == "the type torch.bfloat16"
    assert cpp.refuses(x_TD, x_TD.to("meta")) == "the device meta"
