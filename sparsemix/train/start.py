"""How a run begins: a new folder, or one that goes on; from random weights, another model's, or a checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sparsemix.checks import check
from sparsemix.config import to_json
from sparsemix.data import Sampler, Tokenizer, TokenStore, prepare
from sparsemix.interop import fill, tokenizer_of
from sparsemix.runs import RunError, RunFolder
from sparsemix.train.balancing import unbalanced
from sparsemix.train.config import TrainConfig
from sparsemix.train.facts import facts, warn_of_changes
from sparsemix.train.memory import memory_explained
from sparsemix.train.origin import source_of, stored
from sparsemix.train.saving import load_checkpoint
from sparsemix.train.trainer import Trainer

LOG = logging.getLogger(__name__)
Progress = Callable[[str, int], None]
"""As `prepare` takes it."""


class Start(NamedTuple):
    """Everything a loop needs, at the step where it is to begin."""

    folder: RunFolder
    config: TrainConfig
    trainer: Trainer
    tokenizer: Tokenizer
    stores: list[TokenStore]
    sampler: Sampler
    values: dict[str, Any]
    """What the loop saved beside the trainer; empty at step 0."""


def begin(config: TrainConfig, out: Path, init: Path | None, progress: Progress | None) -> Start:
    """A new run in `out`; where anything is refused, nothing is left behind.

    Raises:
        ValueError: the config asks for what cannot be built, `out` is not free, `init` does not fit, or the data
            are not as they should be.
    """
    source = None if init is None else source_of(init)
    with memory_explained(config):
        trainer = config.build()
    if source is not None:
        fill(trainer.model, stored(source))
    _try_balance(trainer)
    folder = RunFolder.create(out, config, facts(trainer, config) | {"init": source})
    try:
        return _with_data(folder, config, trainer, {}, progress)
    except (ValueError, ImportError):
        folder.discard()
        raise


def go_on(config: TrainConfig | None, out: Path, progress: Progress | None) -> Start:
    """The run in `out` as its last checkpoint left it, or from its beginning if it has none yet.

    Raises:
        ValueError: there is no run, its config is another, or its checkpoint is damaged.
    """
    folder = RunFolder.open(out)
    asked, before, values = folder.config(TrainConfig), folder.facts(), {}
    _check_same(asked, asked if config is None else config)
    with memory_explained(asked):
        trainer = asked.build()
    warn_of_changes(before, facts(trainer, asked))
    _try_balance(trainer)
    step = folder.checkpoints.latest()
    if step is not None:
        values = load_checkpoint(trainer, folder, step)
    elif before["init"] is not None:
        fill(trainer.model, stored(before["init"]))
    return _with_data(folder, asked, trainer, values, progress)


def _try_balance(trainer: Trainer) -> None:
    """Warn of routers that nothing balances.

    Raises:
        ValueError: a loss needs what a router does not give.
    """
    layers = unbalanced(trainer.model, trainer.balance)
    if layers:
        LOG.warning(
            "routers of blocks %s get no balance gradient and follow no load: experts may collapse; "
            "leave balance.losses to the router's paper, or name one",
            ", ".join(map(str, layers)),
        )


def _with_data(
    folder: RunFolder, config: TrainConfig, trainer: Trainer, values: dict[str, Any], progress: Progress | None
) -> Start:
    """Prepare the data, or open them where that is done, and see that they fit."""
    try:
        tokenizer, stores = prepare(
            config.data.sources,
            folder.data,
            _taken_over(folder) or config.data.tokenizer,
            held_out=config.data.held_out,
            seed=config.data.seed,
            progress=progress,
        )
    except OSError as error:
        raise RunError(f"data: could not be prepared, got {error}; free space or check the sources") from error
    check(
        tokenizer.vocab_size <= config.model.vocab_size,
        "model.vocab_size",
        f"must be at least the {tokenizer.vocab_size} tokens of the tokenizer",
        config.model.vocab_size,
        f"set model.vocab_size to {tokenizer.vocab_size}",
    )
    sampler = Sampler(
        stores,
        config.data.weights,
        batch_size=config.batch_size,
        sequence_length=config.sequence_length,
        seed=config.seed,
        keep_documents_apart=config.data.keep_documents_apart,
    )
    tokenizer.save(folder.tokenizer)
    return Start(folder, config, trainer, tokenizer, stores, sampler, values)


def _taken_over(folder: RunFolder) -> Tokenizer | None:
    """The tokenizer of the model whose weights this run began with; None if it began with none."""
    source = folder.facts()["init"]
    if source is None:
        return None
    if folder.tokenizer.exists():  # once it is there, the other model may go
        return Tokenizer.load(folder.tokenizer)
    return tokenizer_of(stored(source))


def _check_same(before: TrainConfig, given: TrainConfig) -> None:
    was, now = (dict(_leaves(json.loads(to_json(config)))) for config in (before, given))
    for name in was | now:
        rule, remedy = f"must be {was.get(name)!r} as in the run", "leave it out, or start another run"
        check(was.get(name) == now.get(name), name, rule, repr(now.get(name)), remedy)


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of everything in nested objects."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _leaves(inner, f"{prefix}.{name}" if prefix else name)
