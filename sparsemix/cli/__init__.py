"""The command line: each verb is a parse and one call; errors are one line.

Exit codes: 0 done; 2 something given is wrong, or the run cannot go on, said in one line; 3 `verify` found something
that is not as it should be; 130 (SIGINT) and 143 (SIGTERM) stopped by a signal, training having saved first; 1 with a
traceback is a bug of ours.
"""

from __future__ import annotations

import difflib
import importlib
import keyword
import os
import sys
from collections.abc import Sequence

import sparsemix
from sparsemix.allocator import keep_freed_memory, return_freed_memory
from sparsemix.cli.errors import user_error

# Written out by hand, so that the root's help imports no verb, and so neither torch nor numpy nor pydantic.
VERBS = {
    "demo": "train a mixture of experts and its dense twin side by side, and say which wins",
    "train": "train a language model in a run folder, or go on with one",
    "eval": "loss and bits per byte of a run or a model on held-out or other text, by domain",
    "generate": "continue prompts with the model of a run or of a folder",
    "import": "a model of a Hugging Face folder, or of a run, into a folder of our own format",
    "export": "write a model for transformers and what builds on it, or for llama.cpp",
    "surgery": "cut, grow and join models: upcycle, merge-dense, prune, merge-experts, split, grow, ...",
    "verify": "prove that a layer, a run or a model computes what it should",
    "info": "parameters, FLOPs and memory of a run, a model, a config file or a known architecture",
}
STREAMING = {"import", "export", "surgery"}
"""Verbs that work through a model of any size, and give back what they are done with."""
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that the arguments name; the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _flushed(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads our output, `head` for one, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as left:
        if isinstance(left.__context__, BrokenPipeError):  # as rich leaves then
            return 0
        raise
    except Exception as error:
        line = user_error(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2


def _flushed(args: list[str]) -> int:
    """The exit code, once all that was printed has left: what breaks at exit can no longer be met."""
    try:
        return _dispatch(args)
    finally:
        sys.stdout.flush()


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"sparsemix {sparsemix.__version__}")
        return 0
    verb, *rest = args
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        remedy = f"did you mean {near[0]}?" if near else "see sparsemix --help"
        raise ValueError(f"verb: must be one of {', '.join(VERBS)}, got {verb!r}; {remedy}")
    return_freed_memory() if verb in STREAMING else keep_freed_memory()
    module = f"{verb}_" if keyword.iskeyword(verb) else verb
    return importlib.import_module(f"sparsemix.cli.{module}").run(rest)


def _help() -> str:
    width = max(map(len, VERBS)) + 2
    lines = [f"  {verb:<{width}}{line}" for verb, line in VERBS.items()]
    return "\n".join(
        [
            "usage: sparsemix [--help] [--version] VERB ...",
            "",
            "Sparse mixture-of-experts models: train them, measure them, run them.",
            "",
            "verbs:",
            *lines,
            "",
            "sparsemix VERB --help says what a verb takes. Exit codes: 0 done; 2 refused, in one line;",
            "3 verify has found a fault; 130 and 143 stopped by SIGINT and SIGTERM, training having saved first.",
        ]
    )
