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
from sparsemix.cli.flags import Switch, parse
from sparsemix.cli.tables import print_facts
from sparsemix.config import read_json
from sparsemix.models import DecoderConfig
from sparsemix.models.architectures import ARCHITECTURES, architecture
from sparsemix.models.counts import count_by_tensors
from sparsemix.runs import RunFolder
from sparsemix.train import Precision, TrainConfig, choose_precision
from sparsemix.train.precision import DTypeName


@dataclass(frozen=True)
class Info:
    """Parameters, FLOPs and memory of a run, a config file or a known architecture; without any, this machine."""

    target: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="TARGET")] = None
    """Folder of a run, or a JSON file with the config of a run or of a model."""
    arch: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """A known architecture."""
    list: Switch = False
    """Name the known architectures."""
    context: int | None = None
    """Tokens that a token attends to; without, as many as the model can."""
    device: str | None = None
    """auto, cpu, cuda, cuda:1, ...; without, what the config says."""
    dtype: DTypeName | None = None
    """What to compute in; without, what the config says."""
    json: Switch = False
    """Print JSON."""


def run(args: list[str]) -> int:
    """Parse, find out, print."""
    given = parse(Info, args, verb="info", default=Info())
    facts = _facts(given)
    print(json.dumps(facts, indent=2)) if given.json else print_facts(facts)
    return 0


def _facts(given: Info) -> Facts:
    chosen = [name for name in ("target", "arch", "list") if getattr(given, name)]
    check(len(chosen) <= 1, "target", "must be one of TARGET, --arch and --list", " and ".join(chosen), "give one")
    if given.list:
        return {name: {"published": one.published, "source": one.source} for name, one in ARCHITECTURES.items()}
    if given.arch is not None:
        return of_architecture(given.arch, given)
    if given.target is None:
        return {"environment": describe.environment(_precision(given))}
    if given.target.is_dir():
        run = RunFolder.open(given.target)
        done = {"steps_done": run.checkpoints.latest() or 0, "started_on": run.facts()}
        return of_training(run.config(TrainConfig), given) | done
    if _is_of_a_model(given.target):
        return of_model(read_json(DecoderConfig, given.target), given)
    return of_training(read_json(TrainConfig, given.target), given)


def of_architecture(name: str, given: Info) -> Facts:
    """A known architecture, in its makers' accounting; AdamW's state, as if it were trained."""
    arch = architecture(name)
    found = arch.counts(given.context)
    facts: Facts = {"name": name, "source": arch.source, "published": arch.published}
    if arch.missing:
        facts["not_buildable_for_lack_of"] = arch.missing
    facts |= describe.counts(found)
    if arch.decoder is not None:
        facts |= _of_decoder(arch.decoder, _precision(given))
    adamw = describe.adamw_state(found.parameters_total)
    return facts | {"memory_bytes": describe.memory(found, adamw), "environment": _environment(given)}
