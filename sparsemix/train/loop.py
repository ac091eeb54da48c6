"""A training run from beginning to end: steps, evaluations, metrics, checkpoints, and stopping when asked."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from sparsemix.checks import check
from sparsemix.data import Batch, held_out_batches
from sparsemix.runs import MetricsWriter
from sparsemix.train.batch import split_batch
from sparsemix.train.config import TrainConfig
from sparsemix.train.display import Display
from sparsemix.train.evaluate import Evaluation, evaluate
from sparsemix.train.memory import memory_explained
from sparsemix.train.saving import save_checkpoint
from sparsemix.train.signals import StopSignals
from sparsemix.train.start import Start, begin, go_on
from sparsemix.train.step import Observer
from sparsemix.train.tensorboard import TensorBoard
from sparsemix.train.trainer import StepReport


class TrainResult(NamedTuple):
    """How a run ended, or where it stopped."""

    out: Path
    step: int
    """Steps done."""
    stopped_by: signal.Signals | None
    """The signal that asked it to stop; None: it is complete."""
    evaluation: Evaluation | None
    """After the last step; None if it stopped before, was complete already, or has no held-out text."""


def train(
    config: TrainConfig | None,
    out: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    observers: Sequence[Observer] = (),
    console: Console | None = None,
) -> TrainResult:
    """Train a model in the folder `out`.

    On a CPU, a run that was killed and resumed has, bit for bit, the losses and weights of one that was not.

    Args:
        config: the run; None: the defaults, or with `resume` what the run has.
        out: a folder that is new or empty, or with `resume` that of a run.
        resume: go on from the last checkpoint.
        init: another run, whose weights and tokenizer to start from.
        observers: called with step, layer and routing, for each micro-batch.
        console: where to show progress; None: nowhere.

    Raises:
        ValueError: something given is wrong, in one line; a new run then leaves nothing behind.
        RunError: (a ValueError) a file cannot be written, or is damaged.
        TrainingError: out of memory, or losses that are not finite.
    """
    check(not (resume and init), "init", "must not be given with resume", init, "leave it out")
    with Display(console) as display:
        if resume:
            start = go_on(config, out, display.prepared)
        else:
            start = begin(config or TrainConfig(), out, init, display.prepared)
        loop = _Loop(start, observers, display)
        try:
            return loop.run()
        finally:
            loop.close()


def held_out(start: Start) -> Iterator[tuple[str, Batch]]:
    """The batches that a run is evaluated on, always the same ones."""
    config = start.config
    for store in start.stores:
        yield from held_out_batches(
            store,
            batch_size=max(1, config.batch_size // config.accumulate),
            sequence_length=config.sequence_length,
            max_tokens_per_domain=config.eval_tokens,
            keep_documents_apart=config.data.keep_documents_apart,
        )


class _Loop:
    """The steps that are still to be taken, and what is written about them."""

    def __init__(self, start: Start, observers: Sequence[Observer], display: Display) -> None:
        self.start, self.observers, self.display = start, observers, display
        self.config, self.trainer = start.config, start.trainer
        self.has_held_out = any(store.held_out for store in start.stores)
        self.seconds: float = start.values.get("seconds", 0.0)
        self.evaluation: Evaluation | None = None
        self.metrics = MetricsWriter(start.folder.metrics, start.trainer.steps_done)
        self.tensorboard = TensorBoard(start.folder.tensorboard, start.trainer.steps_done)

    def run(self) -> TrainResult:
        """Take them, until the last or until a signal."""
        self.display.begin(self.trainer.steps_done, self.config.steps)
        with StopSignals() as stop, memory_explained(self.config):
            while self.trainer.steps_done < self.config.steps and stop.received is None:
                self._step()
        if stop.received is not None:
            self._save()
            done, steps = self.trainer.steps_done, self.config.steps
            self.display.note(f"stopped by {stop.received.name} after step {done} of {steps}; go on with --resume")
        return TrainResult(self.start.folder.path, self.trainer.steps_done, stop.received, self.evaluation)

    def close(self) -> None:
        """Nothing more will be written."""
        self.metrics.close()
        self.tensorboard.close()

    def _step(self) -> None:
        batch = self.start.sampler.batch(self.trainer.steps_done)
        report = self.trainer.step(split_batch(batch, self.config.accumulate), self.observers)
        self.seconds += report.seconds
        self.display.stepped(report)
        self.evaluation = None
        if self.has_held_out and self._is_due(self.config.evaluate_every):
            trainer, tokenizer = self.trainer, self.start.tokenizer
            self.evaluation = evaluate(trainer.model, held_out(self.start), tokenizer, trainer.precision)
            self.display.evaluated(report.step, self.evaluation)
        self._record(report)
        if self._is_due(self.config.checkpoint_every):
            self._save()

    def _is_due(self, every: int) -> bool:
        return self.trainer.steps_done % every == 0 or self.trainer.steps_done == self.config.steps

    def _record(self, report: StepReport) -> None:
        values: dict[str, Any] = {
            "loss": report.loss,
            "balance": report.balance,
            "grad_norm": report.grad_norm,
            "lr": report.lr,
            "imbalance": report.imbalance,
            "skipped": report.skipped,
            "tokens": report.step * report.tokens,
            "seconds": self.seconds,
        }
        if self.evaluation is not None:
            total, domains = self.evaluation
            values["evaluation"] = {
                "loss": total.loss,
                "bits_per_byte": total.bits_per_byte,
                "domains": {name: score.bits_per_byte for name, score in domains.items()},
            }
        self.metrics.write(step=report.step, **values)
        self.tensorboard.write(report.step, values)

    def _save(self) -> None:
        checkpoints = self.start.folder.checkpoints
        if checkpoints.latest() == self.trainer.steps_done:
            return
        self.metrics.sync()  # the curve on disk reaches at least as far as the checkpoint
        save_checkpoint(self.trainer, self.start.folder, {"seconds": self.seconds})
        checkpoints.keep_last(self.config.keep_checkpoints)
