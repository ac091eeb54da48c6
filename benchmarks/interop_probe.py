"""What a verb holds at most: run by interop_memory.py in a fresh process, prints JSON. Linux only."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import sparsemix.interop  # what importing costs is not the verb's
from sparsemix.cli import main


def peak() -> int:
    """Bytes resident at most since the process began; unlike `ru_maxrss`, without what its parent held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def held_by(args: list[str]) -> dict[str, int]:
    """Peak before and after a verb that must succeed."""
    main(["import", "--help-nothing"])  # loads the command line's libraries, and is refused
    before = peak()
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(args)
    assert code == 0, args
    return {"before": before, "after": peak()}


if __name__ == "__main__":
    assert sparsemix.interop.open_model
    with contextlib.redirect_stderr(io.StringIO()):
        found = held_by(sys.argv[1:])
    print(json.dumps(found))
