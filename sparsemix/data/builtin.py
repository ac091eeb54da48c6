"""The built-in corpus: the standard library of the running interpreter, read from disk, by domain."""

from __future__ import annotations

import importlib
import io
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from sparsemix.data.document import Document

LEFT_OUT_FOLDERS = ("site-packages", "dist-packages", "__pycache__", "lib-dynload", "config-")
# These say how this machine was set up, and topics.py comes entry by entry.
LEFT_OUT_FILES = ("_sysconfigdata", "sitecustomize", "usercustomize", "topics.py")
TEST_FOLDERS = {"test", "tests", "idle_test"}
GRAPHICAL = {"idlelib", "tkinter", "turtledemo", "turtle.py"}
TEXT_SUFFIXES = {".txt", ".html", ".xml", ".rst", ".md"}


def read_builtin(library: Path | None = None) -> Iterator[Document]:
    """Documents of the standard library in sorted order: the verbatim text of a file or of a `pydoc` topic.

    The domains, as far as the interpreter ships them: library, tests, gui, encodings, decimal (tables of
    arithmetic), text (plain text, HTML and XML) and topics (the language reference that `help()` prints).

    Args:
        library: the folder to read; that of the running interpreter unless given.
    """
    root = Path(sysconfig.get_path("stdlib")) if library is None else library
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(LEFT_OUT_FOLDERS))
        for name in sorted(files):
            path = Path(folder, name)
            domain = _domain(path.relative_to(root))
            text = _text(path) if domain else None
            if domain and text:
                yield Document(text, domain)
    yield from _topics()


def _topics() -> Iterator[Document]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # minimal installations leave it out
        return
    for name in sorted(topics):
        yield Document(topics[name], "topics")


def _domain(path: Path) -> str | None:
    """The domain of a file of the library, None for what is no text or not worth reading."""
    if path.name.startswith(LEFT_OUT_FILES):
        return None
    if path.suffix == ".decTest":
        return "decimal"
    if path.suffix in TEXT_SUFFIXES:
        return "text"
    if path.suffix != ".py":
        return None
    if TEST_FOLDERS.intersection(path.parts):
        return "tests"
    if path.parts[0] == "encodings":
        return "encodings"
    return "gui" if path.parts[0] in GRAPHICAL else "library"


def _text(path: Path) -> str | None:
    """The file decoded as Python would (PEP 263), None where that fails, as it must for some of the tests."""
    try:
        raw = path.read_bytes()
        encoding = tokenize.detect_encoding(io.BytesIO(raw).readline)[0] if path.suffix == ".py" else "utf-8"
        return raw.decode(encoding)
    except (OSError, SyntaxError, UnicodeDecodeError, LookupError):
        return None
