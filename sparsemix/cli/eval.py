"""`sparsemix eval`: how well a model predicts held-out text, or text it never saw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from sparsemix.checks import check
from sparsemix.cli.flags import Many, Switch, flatten, parse, shown_as
from sparsemix.data import Batch, Tokenizer, TokenStore, held_out_batches, prepare
from sparsemix.runs import RunFolder, is_run
from sparsemix.train import Evaluation, TrainConfig, choose_precision, evaluate, load_trained
from sparsemix.train.precision import DTypeName


@dataclass(frozen=True)
class Eval:
    """Loss and bits per byte of a model, by domain."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A run, a Hugging Face folder or our own format."""
    data: Annotated[Many, tyro.conf.arg(metavar="PATH...")] = ()
    """Text that training did not see, all of which counts; without, a run's own held-out text."""
    eval_tokens: Annotated[int | None, shown_as("INT")] = None
    """Tokens of each domain, at most; without, as many as in training."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: DTypeName = "auto"
    """What to compute in."""
    json: Switch = False
    """Print JSON."""


def run(args: list[str]) -> int:
    """Parse, evaluate, print."""
    given = parse(Eval, args, verb="eval", default=Eval(path=tyro.MISSING))
    precision = choose_precision(given.device, given.dtype)
    trained = load_trained(given.path)
    with TemporaryDirectory() as scratch:
        if given.data:
            stores = _whole(flatten(given.data), Path(scratch), trained.tokenizer)
        else:
            stores = _held_out_of(given.path)
        tokens = trained.config.eval_tokens if given.eval_tokens is None else given.eval_tokens
        check(tokens >= 1, "eval_tokens", "must be at least 1", tokens, "raise it")
        batches = _batches(stores, trained.config, tokens)
        found = evaluate(trained.model.to(precision.device), batches, trained.tokenizer, precision)
    print(_as_json(found, trained.step)) if given.json else Console().print(_as_table(found, trained.step))
    return 0


def _held_out_of(path: Path) -> list[TokenStore]:
    """The stores of a run.

    Raises:
        ValueError: it is none.
    """
    check(is_run(path), "data", "must be given for a model that is no run", "none", "name files or folders of text")
    return [TokenStore.open(store) for store in sorted(RunFolder.open(path).data.glob("store_*"))]


def _whole(sources: Sequence[str], folder: Path, tokenizer: Tokenizer) -> list[TokenStore]:
    """Stores of these sources in which everything is held out, each source a domain."""
    _, stores = prepare(sources, folder / "data", tokenizer, held_out=0)
    for source, store in zip(sources, stores, strict=True):
        store.held_out = {source: store.train}
    return stores


def _batches(stores: Sequence[TokenStore], config: TrainConfig, tokens: int) -> Iterator[tuple[str, Batch]]:
    for store in stores:
        yield from held_out_batches(
            store,
            batch_size=max(1, config.batch_size // config.accumulate),
            sequence_length=config.sequence_length,
            max_tokens_per_domain=tokens,
            keep_documents_apart=config.data.keep_documents_apart,
        )


def _as_json(found: Evaluation, step: int | None) -> str:
    domains = {name: score._asdict() for name, score in found.domains.items()}
    return json.dumps({"step": step, **found.total._asdict(), "domains": domains}, indent=2)


def _as_table(found: Evaluation, step: int | None) -> Table:
    table = Table(title=None if step is None else f"after {step} steps")
    table.add_column("domain")
    for name in ("loss (nats a token)", "bits per byte", "tokens", "bytes"):
        table.add_column(name, justify="right")
    for name, score in found.domains.items():
        table.add_row(name, f"{score.loss:.4f}", f"{score.bits_per_byte:.4f}", f"{score.tokens:,}", f"{score.bytes:,}")
    table.add_section()
    total = found.total
    table.add_row("all", f"{total.loss:.4f}", f"{total.bits_per_byte:.4f}", f"{total.tokens:,}", f"{total.bytes:,}")
    return table
