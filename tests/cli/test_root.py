"""The root of the command: quick, and one line for what a user can mend."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sparsemix as package
from sparsemix import cli
from sparsemix.cli import VERBS, main
from sparsemix.cli.errors import user_error

HEAVY = {"torch", "numpy", "pydantic", "tyro", "rich", "tokenizers", "safetensors"}


@pytest.mark.parametrize("args", [["--help"], ["-h"], [], ["--version"], ["trian"]])
def test_the_root_imports_nothing_heavy(args):
    code = f"""
import sys
from sparsemix.cli import main
code = main({args})
print(code, sorted({HEAVY} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ("2 []" if args == ["trian"] else "0 []")


def test_help_names_every_verb_and_every_verb_has_a_module(sparsemix):
    answer = sparsemix("--help")
    assert answer.code == 0
    for verb, line in VERBS.items():
        assert f"  {verb}" in answer.out
        assert line in answer.out
    rooms = {path.stem.removesuffix("_") for path in Path(cli.__file__).parent.glob("*.py")}
    assert set(VERBS) <= rooms


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(sparsemix, verb):
    answer = sparsemix(verb, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: sparsemix {verb}")
    assert answer.err == ""


def test_version(sparsemix):
    assert sparsemix("--version").out == f"sparsemix {package.__version__}\n"


def test_an_unknown_verb_is_one_line_with_the_nearest(sparsemix):
    answer = sparsemix("trian", "--out", "x")
    assert answer.code == 2
    assert answer.out == ""
    expected = f"verb: must be one of {', '.join(VERBS)}, got 'trian'; did you mean train?"
    assert answer.err == f"error: {expected}\n"


def test_the_command_is_declared():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="sparsemix")
    assert entry.load() is main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("k: must be 1,\n got 2; lower it"), "k: must be 1, got 2; lower it"),
        (RuntimeError("loss: must be finite, got nan; stop"), "loss: must be finite, got nan; stop"),
        (ImportError("pyarrow: needed to read, not installed"), "pyarrow: needed to read, not installed"),
        (
            PermissionError(13, "Permission denied", "/x"),
            "/x: must be accessible, got Permission denied; check the path and the disk",
        ),
        (ValueError("too many values to unpack (expected 2)"), None),
        (AssertionError("bounds: must be sorted, got 3"), None),
        (KeyError("name"), None),
    ],
)
def test_which_errors_are_the_users(error, line):
    assert user_error(error) == line


def failing(error):
    def run(args):
        raise error

    return run


def test_a_bug_keeps_its_traceback(monkeypatch):
    from sparsemix.cli import info

    monkeypatch.setattr(info, "run", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_an_interrupt_is_no_traceback(monkeypatch, capsys):
    from sparsemix.cli import info

    monkeypatch.setattr(info, "run", failing(KeyboardInterrupt()))
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("args", ["--help", "info --help", "info --arch mixtral-8x7b"])
def test_output_that_nobody_reads_is_no_error(args):
    line = f"{sys.executable} -m sparsemix.cli {args} | true; echo ${{PIPESTATUS[0]}}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "0\n"
    assert done.stderr == ""
