"""`sparsemix generate`: continue prompts with a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from sparsemix.checks import check
from sparsemix.cli.flags import Many, Switch, flatten, parse, shown_as
from sparsemix.cli.streaming import stream_text
from sparsemix.inference import generate_text
from sparsemix.train import choose_precision, load_trained


@dataclass(frozen=True)
class Generate:
    """Continue prompts with a model; one prompt is continued as you watch."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A run, a Hugging Face folder or our own format."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, shown_as("TEXT")] = ()
    """What to continue; may be given several times. Without: begin a document."""
    max_new_tokens: int = 100
    """The most tokens to add; prompt and new tokens must fit in the model's context."""
    temperature: float = 1.0
    """0 takes the likeliest token each time."""
    top_k: Annotated[int | None, shown_as("INT")] = None
    """Sample among so many of the likeliest tokens."""
    top_p: Annotated[float | None, shown_as("FLOAT")] = None
    """Sample among the fewest likeliest tokens that hold so much probability."""
    stop: Annotated[Many, tyro.conf.arg(metavar="TEXT...")] = ()
    """Strings that end a text, beside the end of the document; they are not printed."""
    seed: int = 0
    """The same seed gives the same text."""
    num_samples: int = 1
    """Continuations of each prompt."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    json: Switch = False
    """Print JSON: a list of objects with prompt and text."""


def run(args: list[str]) -> int:
    """Parse, generate, print."""
    given = parse(Generate, args, verb="generate", default=Generate(path=tyro.MISSING))
    check(given.num_samples >= 1, "num_samples", "must be at least 1", given.num_samples, "raise it")
    prompts = [prompt for prompt in given.prompt or ("",) for _ in range(given.num_samples)]
    device = choose_precision(given.device, "float32").device
    trained = load_trained(given.path)
    model, tokenizer = trained.model.to(device), trained.tokenizer
    settings = {
        "max_new_tokens": given.max_new_tokens,
        "temperature": given.temperature,
        "top_k": given.top_k,
        "top_p": given.top_p,
        "stop": flatten(given.stop),
        "seed": given.seed,
    }
    if len(prompts) == 1 and not given.json:
        _print_live(partial(stream_text, model, tokenizer, prompts[0], **settings), prompts[0])
        return 0
    texts = generate_text(model, tokenizer, prompts, **settings)
    _print_all(prompts, texts, given.json)
    return 0


def _print_live(stream: Callable[..., None], prompt: str) -> None:
    """Print the prompt and what `stream` writes; nothing if it refuses to begin."""
    waiting = [prompt]

    def write(piece: str) -> None:
        print("".join(waiting) + piece, end="", flush=True)
        waiting.clear()

    stream(write=write)
    write("\n")


def _print_all(prompts: Sequence[str], texts: Sequence[str], as_json: bool) -> None:
    if as_json:
        pairs = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
        print(json.dumps(pairs, indent=2, ensure_ascii=False))
        return
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1):
        print(f"--- {number} of {len(prompts)}\n{prompt}{text}")
