"""Freed memory is kept or given back, as asked, where the C library can."""

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


STREAM = """
from pathlib import Path
import torch
from sparsemix.allocator import keep_freed_memory, return_freed_memory
keep_freed_memory()
assert return_freed_memory()
def peak():  # in KiB; ru_maxrss would begin with that of the process that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
before, small = peak(), []
for size in range(60):
    large = [torch.ones(2**20 + size * 2**16) for _ in range(2)]
    small.append(torch.ones(2**14))
    del large
print((peak() - before) // 1024)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_streams_through_memory_leaves_no_holes_in_it():
    ran = subprocess.run((sys.executable, "-c", STREAM), capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 60  # MiB: two blocks of 20 at most; about 700 when freed memory is kept


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
    assert allocator.return_freed_memory() is False
