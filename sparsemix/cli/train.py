"""`sparsemix train`: a training run from a config file and flags."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from sparsemix.cli.flags import Many, Switch, flatten, parse, peek, shown_as
from sparsemix.cli.kinds import choose_kinds
from sparsemix.config import read_json
from sparsemix.runs import RunFolder
from sparsemix.train import TrainConfig, TrainResult, config_of, train

STOPPED = 128
"""Added to the number of a signal, as shells do."""


@dataclass(frozen=True)
class Base:
    """Which config the flags change."""

    out: Path | None = None
    config: Path | None = None
    init: Path | None = None
    resume: Switch = False

    def read(self) -> TrainConfig:
        """The config file, or the config of the run to go on with or of what to start from, or the defaults."""
        if self.config is not None:
            return read_json(TrainConfig, self.config)
        if self.resume and self.out is not None:
            return RunFolder.open(self.out).config(TrainConfig)
        return TrainConfig() if self.init is None else config_of(self.init)


@dataclass(frozen=True)
class Train:
    """Train a language model in a run folder, or go on with one.

    Every value of the config is a flag and overrides --config, or else the config of what --resume or --init names.
    A part of another kind, as --optimizer.type adamw or --model.moe.router.type switch, brings flags of its own. A part
    that is None comes to be with the first flag of it, as --model.moe.router.selection-bias.rate 0.001, and goes with
    None, as --model.moe.router.selection-bias None.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the run: config.json, metrics.jsonl, checkpoints."""
    train: Annotated[TrainConfig, tyro.conf.arg(name="")]
    data: Annotated[Many, tyro.conf.arg(metavar="PATH...")] = ()
    """Text files, folders, .jsonl, .parquet, hf:NAME, or builtin; the short form of --data.sources."""
    weights: Annotated[tuple[float, ...], shown_as("FLOAT...")] = ()
    """How often each of these is drawn from, by its size if not given; the short form of --data.weights."""
    config: Annotated[Path | None, shown_as("FILE")] = None
    """A config as JSON, as config.json of a run is."""
    resume: Switch = False
    """Go on with the run in --out from its last checkpoint."""
    init: Annotated[Path | None, shown_as("PATH")] = None
    """Another run, a Hugging Face folder or our own format, whose model and tokenizer to start from."""

    @property
    def resolved(self) -> TrainConfig:
        """The config with the short forms in place."""
        data = self.train.data
        if self.data:
            data = replace(data, sources=flatten(self.data), weights=self.weights or None)
        elif self.weights:
            data = replace(data, weights=self.weights)
        return replace(self.train, data=data)


def read(args: list[str]) -> Train:
    """What the arguments say; what they leave open is as in the config that they go by."""
    rest, base = choose_kinds(args, peek(Base, args).read())
    return parse(Train, rest, verb="train", default=Train(out=tyro.MISSING, train=base))


def run(args: list[str]) -> int:
    """Parse, train, say how it ended."""
    given = read(args)
    config, console = given.resolved, Console(stderr=True)
    result = train(config, given.out, resume=given.resume, init=given.init, console=console)
    print("\n".join(_summary(result, config)))
    return 0 if result.stopped_by is None else STOPPED + result.stopped_by


def _summary(result: TrainResult, config: TrainConfig) -> list[str]:
    lines = [f"{result.out}: {result.step} of {config.steps} steps done"]
    if result.evaluation is not None:
        lines[0] += f", {result.evaluation.total.bits_per_byte:.4f} bits per byte held out"
    if result.stopped_by is not None:
        lines.append(f"go on with: sparsemix train --out {result.out} --resume")
    return lines
