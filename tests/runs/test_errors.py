"""Failures to write are one line; all else passes through."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from sparsemix.runs.errors import RunError, writing


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (SafetensorError("io error\nand more"), "io error"),
    ],
)
def test_failures_to_write_are_one_line(error, reason):
    with pytest.raises(RunError) as caught, writing(Path("a.json")):
        raise error
    assert str(caught.value) == f"a.json: could not be written, got {reason}; free space and resume"


def test_other_errors_pass_through():
    with pytest.raises(KeyError), writing(Path("x")):
        raise KeyError("x")
