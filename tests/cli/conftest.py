"""A trained run that the tests of the command line share, and the command line as they call it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from sparsemix.cli import main

SENTENCES = ["the router sends each token to a few experts", "an expert is a small network", "and so on and on"]
TINY = [
    *("--steps", "6", "--batch-size", "4", "--sequence-length", "16", "--eval-tokens", "64"),
    *("--evaluate-every", "3", "--checkpoint-every", "2", "--data.held-out", "0.1", "--model.context", "32"),
    *("--model.dim", "16", "--model.num-layers", "2", "--model.attention.num-heads", "2"),
    *("--model.moe.num-experts", "4", "--model.moe.experts.hidden", "8", "--optimizer.dtype", "float32"),
]
"""Flags of a run that takes a second."""


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def write_text(folder: Path) -> Path:
    """Two domains of a dozen files each."""
    for suffix in ("txt", "md"):
        for number in range(12):
            path = folder / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(" ".join(SENTENCES[(number + step) % 3] for step in range(20)))
    return folder


def command(*args: object, cwd: Path) -> Answer:
    """The command in a process of its own."""
    line = [sys.executable, "-m", "sparsemix.cli", *map(str, args)]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300)
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def no_traceback_of():
    """Checks that the error is one line of our form, and which; a progress bar may stand before it."""

    def check(answer: Answer, expected: str) -> None:
        *before, line = answer.err.splitlines()
        assert re.match(f"error: {expected}", line), line
        assert ", got " in line
        assert not any("error" in other.lower() or "Traceback" in other for other in before)

    return check


@pytest.fixture
def sparsemix(capsys):
    """The command in this process."""

    def call(*args: object) -> Answer:
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as stop:  # after help
            code = stop.code or 0
        return Answer(code, *capsys.readouterr())

    return call


class Trained(NamedTuple):
    text: Path
    run: Path
    answer: Answer


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    text = write_text(folder / "text")
    return Trained(text, folder / "run", command("train", "--data", text, "--out", "run", *TINY, cwd=folder))


@pytest.fixture
def trained(trained_once, tmp_path, monkeypatch) -> Trained:
    """A copy of the run to do with as a test pleases, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_once.run, tmp_path / "run")
    return trained_once._replace(run=Path("run"))
