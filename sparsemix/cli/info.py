"""`sparsemix info`: what a model is and costs, before or after it is trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sparsemix.checks import check
from sparsemix.cli import describe
from sparsemix.cli.describe import Facts
from sparsemix.cli.flags import Switch, parse, shown_as
from sparsemix.cli.tables import print_facts
from sparsemix.config import read_json
from sparsemix.interop import open_model
from sparsemix.models import DecoderConfig
from sparsemix.models.architectures import ARCHITECTURES, architecture
from sparsemix.models.counts import count_by_formula
from sparsemix.runs import RunFolder, is_run
from sparsemix.train import AdamWConfig, OptimizerConfig, TrainConfig, choose_precision
from sparsemix.train.facts import kernel, usual_kernel


@dataclass(frozen=True)
class Info:
    """Parameters, FLOPs and memory of a run, a config file or a known architecture; without any, this machine."""

    target: Annotated[tyro.conf.Positional[Path | None], shown_as("TARGET")] = None
    """Folder of a run or of a model, ours or Hugging Face's, or a JSON file with the config of a run or of a model."""
    arch: Annotated[str | None, shown_as("NAME")] = None
    """A known architecture."""
    list: Switch = False
    """Name the known architectures."""
    context: Annotated[int | None, shown_as("INT")] = None
    """Tokens that a token attends to; without, as many as the model can."""
    json: Switch = False
    """Print JSON."""


def run(args: list[str]) -> int:
    """Parse, find out, print."""
    given = parse(Info, args, verb="info", default=Info())
    chosen = [name for name in ("target", "arch", "list") if getattr(given, name)]
    check(len(chosen) <= 1, "info", "takes one of TARGET, --arch and --list", " and ".join(chosen), "choose one")
    check(given.context is None or given.context >= 0, "context", "must be at least 0", given.context, "raise it")
    facts = _known() if given.list else _facts(given)
    print(json.dumps(facts, indent=2)) if given.json else print_facts(facts)
    return 0


def _known() -> Facts:
    return {name: {"published": one.published, "source": one.source} for name, one in ARCHITECTURES.items()}


def _facts(given: Info) -> Facts:
    precision = choose_precision()
    here = {"environment": describe.environment(precision)}
    if given.arch is not None:
        return _of_architecture(given.arch, given.context) | here
    if given.target is None:
        return {"kernel": _kernel(*usual_kernel(precision))} | here
    if given.target.is_dir() and not is_run(given.target):
        model = open_model(given.target)
        known = {"family": model.family, "facts": dict(model.facts)}
        return _of_model(model.config, AdamWConfig(), given.context) | known | here
    if given.target.is_dir():
        run = RunFolder.open(given.target)
        state = {"steps_done": run.checkpoints.latest() or 0, "begun_with": run.facts()}
        return _of_training(run.config(TrainConfig), given.context) | state | here
    if _is_model(given.target):
        return _of_model(read_json(DecoderConfig, given.target), AdamWConfig(), given.context) | here
    return _of_training(read_json(TrainConfig, given.target), given.context) | here


def _of_architecture(name: str, context: int | None) -> Facts:
    """In its makers' accounting; the state of the optimiser is AdamW's, were it trained."""
    known = architecture(name)
    counts = known.counts(context)
    facts: Facts = {"name": name, "source": known.source, "published": known.published} | describe.counted(counts)
    if known.decoder is not None:
        return _of_model(known.decoder, AdamWConfig(), context) | facts
    memory = describe.memory(counts, describe.adamw_state(counts.parameters_total))
    return facts | {"memory_bytes": memory, "lacks": known.missing}


def _of_training(config: TrainConfig, context: int | None) -> Facts:
    tokens = config.batch_size * config.sequence_length
    return _of_model(config.model, config.optimizer, context) | {"steps": config.steps, "tokens_per_step": tokens}


def _of_model(config: DecoderConfig, optimizer: OptimizerConfig, context: int | None) -> Facts:
    counts, model = count_by_formula(config, context), describe.meta_model(config)
    state, chosen = describe.optimizer_state(model, optimizer), kernel(config, choose_precision())
    return describe.counted(counts) | {
        "parameters_by_part": describe.parameters_by_part(model),
        "memory_bytes": describe.memory(counts, state),
        "optimizer": optimizer.type,
        "kernel": None if chosen is None else _kernel(*chosen),
    }


def _kernel(backend: str, reason: str) -> Facts:
    return {"backend": backend, "reason": reason}


def _is_model(path: Path) -> bool:
    """Whether a JSON file is the config of a model rather than of a run; of one that cannot be read, no."""
    try:
        return "vocab_size" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
