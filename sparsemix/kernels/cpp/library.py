"""The compiled library: built with the machine's own C++ compiler at first use, and kept for the next."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden"),
    "-fopenmp",  # the threads that PyTorch has already started: both ask for the same library by its name
    *("-Wno-psabi", "-Wno-ignored-attributes"),  # of vectors; nothing here passes them to other libraries
)


class Library(NamedTuple):
    """What was loaded, or why nothing was."""

    functions: ctypes.CDLL | None
    reason: str


@functools.cache
def library() -> Library:
    """Compiled if need be, in seconds. Never raises: without a compiler there are other back ends."""
    compiler = cxx()
    if compiler is None:
        return Library(None, "that there is no C++ compiler")
    try:
        return opened(compiled(compiler, cache_folder()))
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
        return Library(None, f"what the C++ compiler says: {lines[0]}")
    except (OSError, RuntimeError, AttributeError) as error:  # RuntimeError: nobody's home
        return Library(None, f"the compiled library: {error}")


def opened(path: Path) -> Library:
    """The functions of a compiled library, with the types of what they take."""
    functions, size, pointer = ctypes.CDLL(str(path)), ctypes.c_int64, ctypes.c_void_p
    functions.sparsemix_lanes.restype = functions.sparsemix_scratch.restype = size
    functions.sparsemix_one_row.argtypes = [pointer, size, pointer, pointer, pointer, size, size, size]
    functions.sparsemix_one_token.argtypes = [pointer, pointer]
    functions.sparsemix_rms_norm.argtypes = [pointer, pointer, pointer, size, size, ctypes.c_double, size]
    for of_call in (functions.sparsemix_scratch, functions.sparsemix_forward, functions.sparsemix_backward):
        of_call.argtypes = [pointer]
    return Library(functions, "")


def cxx() -> str | None:
    """The C++ compiler: `CXX` of the environment, or the first that there is."""
    found = (shutil.which(name) for name in ("c++", "g++", "clang++"))
    return os.environ.get("CXX") or next(filter(None, found), None)


def functions() -> ctypes.CDLL:
    """Those of the library, which is there."""
    found = library().functions
    assert found is not None, "who calls them asks first whether they are there"
    return found


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsemix"


def compiled(compiler: str, folder: Path, flags: tuple[str, ...] = FLAGS) -> Path:
    """The library's file in the folder, named by what it was made of; made if it is not there.

    Raises:
        OSError: the compiler cannot be run, or the folder not written.
        subprocess.CalledProcessError: it fails.
    """
    sources = sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")])
    target = _run([compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull])  # compiler, version, instructions
    made_of = [*(source.read_text(encoding="utf-8") for source in sources), target, *flags]
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    path = folder / f"sparsemix-{platform.machine()}-{name}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as room:  # processes that start together each make their own
            new = Path(room) / path.name
            _run([compiler, *flags, *(str(source) for source in sources if source.suffix == ".cpp"), "-o", str(new)])
            new.replace(path)
    return path


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
