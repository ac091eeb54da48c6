"""`sparsemix surgery`: a model cut, grown or joined, and how far it then is from what it was."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Generic, TypeVar

import tyro

from sparsemix.checks import check
from sparsemix.cli.flags import Many, Switch, flatten, parse
from sparsemix.cli.kinds import choose_kinds
from sparsemix.cli.surgery_verbs import VERBS, Verb
from sparsemix.cli.tables import print_facts
from sparsemix.config import to_json
from sparsemix.interop import StoredModel, export_model, write_own
from sparsemix.interop.own import MODEL_TYPE, check_free
from sparsemix.surgery import (
    RECORD,
    Operation,
    TextConfig,
    open_recorded,
    operate,
    with_record,
)

S = TypeVar("S")


@dataclass(frozen=True)
class Surgery(Generic[S]):
    """Edit a model, measure on text what that changed, and write it to a new folder.

    An edit that theory calls exact is checked: if logits change by more than rounding, nothing is written.
    """

    models: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH...")]
    """Folder of a run, of a model of our own format, or of Hugging Face's."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the new model."""
    settings: Annotated[S, tyro.conf.arg(name="")]
    text: Annotated[Many, tyro.conf.arg(metavar="PATH...")] = ()
    """Text to decide by and to measure on; without it, documents of the built-in corpus that training never sees."""
    tokens: int = TextConfig().tokens
    """How many tokens of it."""
    json: Switch = False
    """Print JSON."""


def run(args: list[str]) -> int:
    """Parse, edit, measure, write, print."""
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, *rest = args
    verb = _verb(name)
    given = _read(name, verb, rest)
    check_free(given.out)
    models = [open_recorded(path) for path in given.models]
    text = TextConfig(sources=flatten(given.text) or TextConfig().sources, tokens=given.tokens).read(models[0])
    done = operate(lambda models, text: verb.apply(models, given.settings, text), models, text)
    facts = _facts(name, given.settings, done)
    facts |= {"family": _write(done.edited.model, facts, given.out), "out": str(given.out)}
    print(json.dumps(facts, indent=2)) if given.json else print_facts(_shown(facts))
    return 0


def _verb(name: str) -> Verb:
    near = difflib.get_close_matches(name, VERBS, n=1)
    remedy = f"did you mean {near[0]}?" if near else "see sparsemix surgery --help"
    check(name in VERBS, "surgery", f"must be one of {', '.join(VERBS)}", repr(name), remedy)
    return VERBS[name]


def _read(name: str, verb: Verb, args: list[str]) -> Surgery[Any]:
    rest, settings = choose_kinds(args, verb.settings())
    default = Surgery(models=tyro.MISSING, out=tyro.MISSING, settings=settings)
    given = parse(Surgery[verb.settings], rest, verb=f"surgery {name}", default=default)
    count = len(given.models)
    check(verb.num_models in (None, count), "PATH", f"must be one folder for {name}", count, "give one")
    return given


def _facts(name: str, settings: Any, done: Operation) -> dict[str, Any]:
    theory, change = done.edited.theory, done.change
    return {
        "verb": name,
        "settings": json.loads(to_json(settings)),
        "exact": theory.exact,
        "why": theory.why,
        "change": change._asdict(),
        "max_abs_logit_float64": done.max_abs_logit_float64,
        "decisions": done.edited.decisions,
    }


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    change = facts["change"]
    before, after = change["bits_per_byte_before"], change["bits_per_byte_after"]
    wide, family = facts["max_abs_logit_float64"], facts["family"]
    format = "in our own format" if family == MODEL_TYPE else f"as transformers' {family}"
    return {
        "in theory": f"{'exact' if facts['exact'] else 'not exact'}: {facts['why']}",
        "measured": {
            "largest change of a logit": f"{change['max_abs_logit']:.3g}",
            **({} if wide is None else {"without rounding, in float64": f"{wide:.3g}"}),
            "mean KL (nats a token)": f"{change['kl']:.3g}",
            "bits per byte before": f"{before:.4f}",
            "bits per byte after": f"{after:.4f} ({after - before:+.4f})",
        },
        **({"decided": _decided(facts["decisions"])} if facts["decisions"] else {}),
        "written": f"{facts['out']}, {format}",
    }


def _decided(decisions: Mapping[str, Any]) -> dict[str, str]:
    """A line for each block, where every block has decisions of its own."""
    layers = decisions.get("layers", {})
    found = {f"block {layer}": one for layer, one in layers.items()} if layers else decisions
    return {name: _short(one) for name, one in found.items()}


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_short(one)}" for name, one in value.items() if one is not None)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _write(model: StoredModel, facts: dict[str, Any], out: Path) -> str:
    """The model, and beside it what was done to it, earlier edits too; says in which format."""
    recorded = with_record(model, facts)
    with TemporaryDirectory() as scratch:
        record = Path(scratch, RECORD)
        record.write_text(json.dumps(recorded.facts["surgery"], indent=2) + "\n", encoding="utf-8")
        recorded = recorded._replace(files=(*recorded.files, record))
        if model.family != MODEL_TYPE:
            return export_model(recorded, out)
        write_own(recorded, out)
        return MODEL_TYPE


def _help() -> str:
    width = max(map(len, VERBS)) + 2
    lines = [f"  {name:<{width}}{verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: sparsemix surgery VERB PATH... --out DIR [--text PATH...] ...",
            "",
            "Edit a model, measure what that changed, and write it to a new folder.",
            "",
            "verbs:",
            *lines,
            "",
            "sparsemix surgery VERB --help says what settings a verb has.",
        ]
    )
