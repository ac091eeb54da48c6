"""The demo: an MoE language model against its dense twin, on text that every Python brings along.

Both see the same tokens in the same order, do the same arithmetic a token but for the router, and take turns step by
step. What it shows: at equal compute the sparse model learns more from each token (Shazeer 2017, 1701.06538; Fedus
2021, 2101.03961; Artetxe 2021, 2112.10684).
Differs: minutes on a laptop instead of weeks on a cluster, so the size, the vocabulary and the optimiser are chosen for
that; docs/log.md says how, and what did not help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.data import BPETokenizerConfig, Sampler, Tokenizer, TokenStore, held_out_batches, prepare
from sparsemix.experts import GLUExpertsConfig
from sparsemix.inference import generate_text
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig, InitConfig
from sparsemix.models.counts import count_by_formula
from sparsemix.recipes.demo_folder import open_folder, save_model
from sparsemix.recipes.live import Live
from sparsemix.recipes.outcome import Contestant, Outcome, print_outcome, write_outcome
from sparsemix.recipes.race import Pace, race
from sparsemix.recipes.twins import dense_twin
from sparsemix.routers import TopKRouterConfig
from sparsemix.train.config import DataConfig, TrainConfig
from sparsemix.train.evaluate import Evaluation, evaluate
from sparsemix.train.optim import AdamWConfig, MuonConfig
from sparsemix.train.trainer import Trainer

TRAINING = TrainConfig(
    model=DecoderConfig(
        vocab_size=4096,
        dim=64,
        num_layers=2,
        context=256,
        attention=AttentionConfig(num_heads=4, qk_norm="head"),
        moe=MoEConfig(num_experts=64, router=TopKRouterConfig(k=4), experts=GLUExpertsConfig(hidden=48)),
        init=InitConfig(scale_residual=True),
    ),
    data=DataConfig(sources=("builtin",), tokenizer=BPETokenizerConfig(vocab_size=4096), held_out=0.05),
    optimizer=MuonConfig(lr=0.02, scale="rms", rest=AdamWConfig(lr=0.003, embedding_lr=0.006, unembedding_lr=0.006)),
    batch_size=32,
    sequence_length=128,
    eval_tokens=8192,
)
"""The MoE; the dense twin is the same with `dense_twin(model)`."""


@config
class DemoConfig:
    """Train a sparse mixture-of-experts language model and its dense twin, and compare them."""

    minutes: float = Field(default=9.5, gt=0)
    """Training time of both together."""
    steps: int | None = Field(default=None, ge=10)
    """So many steps instead, however long they take."""
    out: str = "runs/demo"
    """Folder for the models, summary.json and the plot; an earlier demo in it is replaced."""
    seed: int = Field(default=0, ge=0)
    """Of the initial weights and of the order of the data."""
    evaluate_every: int = Field(default=50, ge=1)
    """Steps between evaluations."""
    prompt: str = "def "
    """What the MoE continues at the end."""
    sample_tokens: int = Field(default=120, ge=0)
    """By how many tokens."""


def demo(settings: DemoConfig, training: TrainConfig = TRAINING) -> Outcome:
    """Train both, save them, and print whichever wins."""
    folder = open_folder(Path(settings.out))
    training = replace(training, seed=settings.seed)
    with Live() as live:
        tokenizer, (store,) = prepare(
            training.data.sources,
            folder / "data",
            training.data.tokenizer,
            held_out=training.data.held_out,
            progress=live.preparing,
        )
        _check_prompt(settings, tokenizer, training.model.context)  # now, not after ten minutes
        configs = twins(training, tokenizer.vocab_size)
        pace = Pace(seconds=60 * settings.minutes if settings.steps is None else None, steps=settings.steps)
        trainers = {name: one.build(multiplier=pace.multiplier) for name, one in configs.items()}
        outcome = compete(settings, configs, trainers, pace, tokenizer, store, live)
    for name, one in configs.items():
        save_model(folder, name, one, trainers[name])
    write_outcome(outcome, folder)
    sample = generate_text(
        trainers["moe"].model,
        tokenizer,
        [settings.prompt],
        max_new_tokens=settings.sample_tokens,
        temperature=0.7,
        seed=settings.seed,
    )
    print_outcome(outcome, folder, settings.prompt + sample[0])
    return outcome


def _check_prompt(settings: DemoConfig, tokenizer: Tokenizer, context: int) -> None:
    length = len(tokenizer.encode(settings.prompt))
    rule = f"must leave room for {settings.sample_tokens} more of {context} tokens"
    check(length + settings.sample_tokens <= context, "prompt", rule, f"{length} tokens", "shorten it")


def twins(training: TrainConfig, vocab_size: int) -> dict[str, TrainConfig]:
    """The two runs; all but the feed-forward layers is equal."""
    model = replace(training.model, vocab_size=vocab_size)
    return {"moe": replace(training, model=model), "dense": replace(training, model=dense_twin(model))}


def compete(
    settings: DemoConfig,
    configs: Mapping[str, TrainConfig],
    trainers: Mapping[str, Trainer],
    pace: Pace,
    tokenizer: Tokenizer,
    store: TokenStore,
    live: Live,
) -> Outcome:
    """Train both in turns, and gather what came of it."""
    one = configs["moe"]
    tokens = one.batch_size * one.sequence_length
    counts = {name: count_by_formula(each.model, one.sequence_length) for name, each in configs.items()}
    held_out = list(
        held_out_batches(
            store,
            batch_size=one.batch_size,
            sequence_length=one.sequence_length,
            max_tokens_per_domain=one.eval_tokens,
        )
    )
    sampler = Sampler([store], batch_size=one.batch_size, sequence_length=one.sequence_length, seed=settings.seed)

    def score(name: str) -> Evaluation:
        return evaluate(trainers[name].model, held_out, tokenizer, trainers[name].precision)

    curves = race(
        trainers,
        sampler.batch,
        lambda name: live.evaluated(name, score(name).total.bits_per_byte),
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
            domains={domain: found.bits_per_byte for domain, found in score(name).domains.items()},
        )
        for name in trainers
    }
    return Outcome(stable_steps=pace.stable_steps, seed=settings.seed, **contestants)
