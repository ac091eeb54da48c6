"""An arena: text prepared once, models trained on it in turns, step by step on the same batches, and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.data import Batch, Sampler, Tokenizer, TokenStore, held_out_batches, prepare
from sparsemix.inference import generate_text
from sparsemix.models import DecoderConfig
from sparsemix.models.counts import Counts, count_by_formula
from sparsemix.recipes.curves import Point
from sparsemix.recipes.demo_folder import DATA, clear, open_folder, save_model
from sparsemix.recipes.live import Live
from sparsemix.recipes.race import Pace, race
from sparsemix.train.config import TrainConfig
from sparsemix.train.evaluate import evaluate
from sparsemix.train.trainer import Trainer


@config
class DemoConfig:
    """Train a sparse mixture-of-experts language model and its dense twin in turns, and compare them.

    With a router, train the mixture under it and the same model without feed-forward layers.
    """

    minutes: float = Field(default=9.5, gt=0)
    """Training time of both together."""
    steps: int | None = Field(default=None, ge=10)
    """So many steps instead, however long they take."""
    router: str | None = None
    """This router instead of the demo's own: topk, switch, deepseek_v3, relu, ...; a name that is none lists them."""
    out: str | None = None
    """Folder of the models and summary.json, runs/demo or runs/demo-ROUTER; an earlier demo there is replaced."""
    seed: int = Field(default=0, ge=0)
    """Of the initial weights and of the order of the data."""
    evaluate_every: int = Field(default=50, ge=1)
    """Steps between evaluations."""
    prompt: str = "def "
    """What the MoE continues at the end."""
    sample_tokens: int = Field(default=120, ge=0)
    """By how many tokens."""

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.out or ("runs/demo" if self.router is None else f"runs/demo-{self.router}"))


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A model after its training."""

    counts: Counts
    curve: tuple[Point, ...]
    tokens: int
    """Seen in training."""
    domains: dict[str, float]
    """Final held-out loss of each domain, bits a byte."""

    @property
    def last(self) -> Point:
        """The final evaluation."""
        return self.curve[-1]

    def summary(self) -> dict[str, Any]:
        """As JSON; losses in bits a byte, seconds without evaluation."""
        return {
            "final_loss": self.last.loss,
            "final_loss_by_domain": self.domains,
            "parameters_total": self.counts.parameters_total,
            "parameters_active": self.counts.parameters_active,
            "flops_per_token": self.counts.flops_per_token,
            "seconds": self.last.seconds,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens / self.last.seconds,
            "curve": [point._asdict() for point in self.curve],
        }


class Arena(NamedTuple):
    """The text of a race, once prepared."""

    tokenizer: Tokenizer
    store: TokenStore
    held_out: list[tuple[str, Batch]]


class Finish(NamedTuple):
    """The end of a race."""

    arena: Arena
    trainers: Mapping[str, Trainer]
    contestants: Mapping[str, Contestant]
    stable_steps: int
    """Steps before the decay of the learning rate."""

    def sample(self, name: str, settings: DemoConfig) -> str:
        """The prompt, and how a model continues it."""
        continued = generate_text(
            self.trainers[name].model,
            self.arena.tokenizer,
            [settings.prompt],
            max_new_tokens=settings.sample_tokens,
            temperature=0.7,
            seed=settings.seed,
        )
        return settings.prompt + continued[0]


def hold(
    settings: DemoConfig,
    training: TrainConfig,
    contestants: Callable[[DecoderConfig], Mapping[str, DecoderConfig]],
) -> Finish:
    """Prepare, train in turns, save; an earlier demo in the folder stays until then.

    Args:
        settings: for how long, and where.
        training: of all contestants, but for the model.
        contestants: the model of `training`, with the vocabulary of the tokenizer -> models by name.
    """
    folder = open_folder(settings.folder)
    training = replace(training, seed=settings.seed)
    with Live() as live:
        arena = _prepare(training, folder, live)
        _check_prompt(settings, arena.tokenizer, training.model.context)  # now, not after ten minutes
        models = contestants(replace(training.model, vocab_size=arena.tokenizer.vocab_size))
        configs = {name: replace(training, model=model) for name, model in models.items()}
        finish = _compete(settings, configs, arena, live)
    clear(folder)
    for name, one in configs.items():
        save_model(folder, name, one, finish.trainers[name])
    return finish


def _prepare(training: TrainConfig, folder: Path, live: Live) -> Arena:
    tokenizer, (store,) = prepare(
        training.data.sources,
        folder / DATA,
        training.data.tokenizer,
        held_out=training.data.held_out,
        seed=training.data.seed,
        progress=live.preparing,
    )
    batches = held_out_batches(
        store,
        batch_size=training.batch_size,
        sequence_length=training.sequence_length,
        max_tokens_per_domain=training.eval_tokens,
    )
    return Arena(tokenizer, store, list(batches))


def _check_prompt(settings: DemoConfig, tokenizer: Tokenizer, context: int) -> None:
    length = len(tokenizer.encode_prompt(settings.prompt))
    rule = f"must leave room for {settings.sample_tokens} more of {context} tokens"
    check(length + settings.sample_tokens <= context, "prompt", rule, f"{length} tokens", "shorten it")


def _compete(settings: DemoConfig, configs: Mapping[str, TrainConfig], arena: Arena, live: Live) -> Finish:
    one = next(iter(configs.values()))
    tokens = one.batch_size * one.sequence_length
    counts = {name: count_by_formula(each.model, one.sequence_length) for name, each in configs.items()}
    pace = Pace(seconds=60 * settings.minutes if settings.steps is None else None, steps=settings.steps)
    trainers = {name: each.build(multiplier=pace.multiplier) for name, each in configs.items()}
    evaluations = {}

    def score(name: str) -> float:
        trainer = trainers[name]
        evaluations[name] = evaluate(trainer.model, arena.held_out, arena.tokenizer, trainer.precision)
        return live.evaluated(name, evaluations[name].total.bits_per_byte)

    curves = race(
        trainers,
        Sampler([arena.store], batch_size=one.batch_size, sequence_length=one.sequence_length, seed=one.seed).batch,
        score,
        {name: tokens * each.training_flops_per_token for name, each in counts.items()},
        pace,
        evaluate_every=settings.evaluate_every,
        watch=live.stepped,
    )
    assert pace.stable_steps is not None
    contestants = {
        name: Contestant(
            counts=counts[name],
            curve=tuple(curves[name]),
            tokens=tokens * trainers[name].steps_done,
            domains={domain: found.bits_per_byte for domain, found in evaluations[name].domains.items()},
        )
        for name in trainers
    }
    return Finish(arena, trainers, contestants, pace.stable_steps)
