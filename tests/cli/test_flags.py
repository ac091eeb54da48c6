"""Flags to configs: every field is one, and whatever is refused is refused in one line."""

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemix.cli.flags import Many, Switch, flatten, parse, peek
from sparsemix.cli.hints import hints_of, is_part
from sparsemix.config import config
from sparsemix.train import AdamWConfig, BalanceConfig, TrainConfig


def leaves(value, prefix=""):
    """Dotted name and value of every field of a config that is no part; parts that are None have no flags yet."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if inner is None and is_part(hints_of(type(value))[field.name]):
            continue
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", inner


def as_flags(name, value):
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        *parents, leaf = flag.removeprefix("--").split(".")
        return ["--" + ".".join([*parents, leaf if value else f"no-{leaf}"])]
    return [flag, *map(str, value)] if isinstance(value, tuple) else [flag, str(value)]


def parsed(*args, default=TrainConfig()):  # noqa: B008
    return parse(TrainConfig, args, verb="train", default=default)


NAMES = [name for name, _ in leaves(TrainConfig()) if not name.endswith("type")]


def test_every_field_is_a_flag_of_the_same_meaning():
    values = dict(leaves(TrainConfig()))
    args = [arg for name in set(NAMES) for arg in as_flags(name, values[name])]
    assert len(args) > 70
    assert parsed(*args) == TrainConfig()


def test_help_has_every_flag_but_the_tags(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    text = capsys.readouterr().out
    assert "--model.moe.router.k INT" in text
    assert "experts a token" in text.lower()
    assert ".type" not in text


def test_flags_override_and_leave_the_rest():
    flags = ["--model.tie-embeddings", "--model.moe.router.no_normalize", "--balance.scope=global"]
    config = parsed("--optimizer.lr", "0.5", *flags)
    expected = TrainConfig()
    router = replace(expected.model.moe.router, normalize=False)
    model = replace(expected.model, tie_embeddings=True, moe=replace(expected.model.moe, router=router))
    optimizer, balance = replace(expected.optimizer, lr=0.5), BalanceConfig(scope="global")
    assert config == replace(expected, optimizer=optimizer, model=model, balance=balance)


@settings(max_examples=8)
@given(st.floats(0.001, 10), st.integers(1, 1000), st.booleans())
def test_a_default_that_is_no_default_survives(lr, steps, tie):
    base = TrainConfig(steps=steps, optimizer=AdamWConfig(lr=lr))
    base = replace(base, model=replace(base.model, tie_embeddings=tie))
    assert parsed(default=base) == base
    assert parsed("--seed", "3", default=base) == replace(base, seed=3)


REFUSED = {
    "--optimiser.lr 3": "--optimiser.lr: must be a flag there is, got '--optimiser.lr'; did you mean --optimizer.lr?",
    "--nonsense-that-is-like-nothing": "--nonsense-that-is-like-nothing: must be a flag there is, got "
    "'--nonsense-that-is-like-nothing'; see --help",
    "stray": "stray: must be a flag there is, got 'stray'; see --help",
    "--steps": "--steps: must have a value, got none; see --help",
    "--steps abc": "--steps: must be INT, got 'abc'; correct the value",
    "--clip-norm abc": "--clip-norm: must be {None}|FLOAT, got 'abc'; correct the value",
    "--dtype int8": "--dtype: must be one of 'auto', 'float32', 'bfloat16', got 'int8'; choose one",
    "--steps 0": "TrainConfig: steps: Input should be greater than or equal to 1, got 0; correct the value",
    "--optimizer.lr -3": "MuonConfig: lr: Input should be greater than 0, got -3.0; correct the value",
    "--sequence-length 999": "TrainConfig: sequence_length: must be at most model.context=256, got 999; "
    "lower it or raise the context",
}


@pytest.mark.parametrize(("args", "line"), REFUSED.items())
def test_what_is_refused_is_refused_in_one_line(args, line, capsys):
    with pytest.raises(ValueError) as caught:
        parsed(*args.split())
    assert str(caught.value) == line
    assert capsys.readouterr() == ("", "")


def test_a_long_value_comes_back_whole():
    long = "/a/very/long/path" * 9  # int() itself cuts off at 200
    with pytest.raises(ValueError) as caught:
        parsed("--steps", long)
    assert f"got '{long}';" in str(caught.value)


def test_the_terminals_width_is_given_back(monkeypatch):
    import os

    for before in (None, "77"):
        monkeypatch.delenv("COLUMNS", raising=False)
        if before:
            monkeypatch.setenv("COLUMNS", before)
        parsed("--steps", "3")
        assert os.environ.get("COLUMNS") == before


@config
class Inner:
    """A part."""

    size: int = 1
    """How big."""


@dataclass(frozen=True)
class Verb:
    """What a verb takes."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    inner: Annotated[Inner, tyro.conf.arg(name="")]
    data: Many = ()
    json: Switch = False


def verb(*args):
    return parse(Verb, args, verb="verb", default=Verb(run=tyro.MISSING, inner=Inner()))


def test_a_flag_of_many_values_may_be_repeated():
    assert flatten(verb("r", "--data", "a", "b", "--data", "c").data) == ("a", "b", "c")
    assert verb("r", "--data", "a", "--json", "--size", "2") == Verb(
        run=Path("r"), inner=Inner(size=2), data=(("a",),), json=True
    )


def test_a_missing_positional_is_named():
    with pytest.raises(ValueError, match=r"^RUN: must be given, got nothing; see --help$"):
        verb("--size", "2")


@dataclass(frozen=True)
class Some:
    out: Path | None = None
    resume: Switch = False


def test_peek_passes_over_what_it_does_not_know():
    assert peek(Some, ["--data", "a", "b", "--out", "x", "--help", "--resume"]) == Some(out=Path("x"), resume=True)
    assert peek(Some, ["--data", "a", "--out"]) == Some()
