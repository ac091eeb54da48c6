"""Freed memory is kept, where the C library can."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from sparsemix.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return [torch.empty(2**size).fill_(1.0) for size in (24, 22, 24, 20, 23)]
for _ in range(8):
    step()
before = faults()
step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_step_is_not_faulted_in_again():
    found = {}
    for mode in ("keep", "leave"):
        ran = subprocess.run((sys.executable, "-c", PROGRAM, mode), capture_output=True, text=True, check=True)
        found[mode] = int(ran.stdout)
    assert 2 * found["keep"] < found["leave"]


def test_elsewhere_it_says_that_it_did_nothing(monkeypatch):
    from sparsemix import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
