"""What every test runs under: seeds, fresh memory full of NaN, and tensor names whose letters are checked."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import hypothesis
import pytest
import torch

import sparsemix

if not torch.cuda.is_available():  # Triton's kernels then run in its interpreter; it looks when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

PACKAGE = str(Path(sparsemix.__file__).parent)
SHAPE = re.compile(r"_((?=.*[A-Z])[BSTDFOEeKNRCGHAVLP0-9]+)$")  # the letters of the package's legend; a digit is itself

torch.set_warn_always(True)  # or a warning comes once a process, and fails whichever test is the first
torch.set_num_threads(1)  # tiny sizes: threads cost more than they give, and tests run side by side
hypothesis.settings.register_profile("ours", deadline=None, derandomize=True, database=None, print_blob=False)
hypothesis.settings.load_profile("ours")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    """`torch.empty` and its relatives give NaN (the largest value for integers): nobody reads them by luck."""
    torch.use_deterministic_algorithms(True)  # without it PyTorch does not look at the next switch
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def shape_suffixes() -> Iterator[list[str]]:
    """At each return from package code, a local tensor `*_ABC` has 3 axes, and each letter one size in the frame."""
    violations: list[str] = []
    names: dict[CodeType, list[tuple[str, str]]] = {}

    def profile(frame: FrameType, event: str, result: Any) -> None:
        code = frame.f_code
        if event != "return" or result is None or not code.co_filename.startswith(PACKAGE):
            return  # an exception on its way out also gives None: the caller's wrong shape is not ours
        if code not in names:
            found = ((name, SHAPE.search(name)) for name in code.co_varnames + code.co_cellvars)
            names[code] = [(name, match[1]) for name, match in found if match]
        if names[code]:
            violations.extend(mismatches(code.co_qualname, frame.f_locals, names[code]))

    before = sys.getprofile()
    sys.setprofile(profile)
    yield violations
    sys.setprofile(before)
    assert not violations, "\n".join(dict.fromkeys(violations))


def mismatches(where: str, values: dict[str, Any], names: list[tuple[str, str]]) -> Iterator[str]:
    sizes: dict[str, tuple[int, str]] = {digit: (int(digit), "the digit") for digit in "0123456789"}
    for name, letters in names:
        tensor = values.get(name)
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.ndim != len(letters):
            yield f"{where}: {name} has {tensor.ndim} axes"
            continue
        for letter, size in zip(letters, tensor.shape):
            expected, source = sizes.setdefault(letter, (size, name))
            if size != expected:
                yield f"{where}: {letter} is {size} in {name} but {expected} in {source}"


@pytest.fixture
def compiler() -> Iterator[None]:
    """Forgets what was compiled; and memory is not NaN, since it refuses to trace the switch that makes it so."""
    torch.compiler.reset()
    torch.use_deterministic_algorithms(False)
    yield
    torch.compiler.reset()
