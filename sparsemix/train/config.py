"""Everything a training run is made of, in one value that goes to JSON and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pydantic import Field

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.data import ByteTokenizerConfig, TokenizerConfig
from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, Decoder, DecoderConfig
from sparsemix.train.balancing import BalanceConfig
from sparsemix.train.optim import MuonConfig, OptimizerConfig
from sparsemix.train.precision import DTypeName, choose_precision
from sparsemix.train.schedule import ScheduleConfig
from sparsemix.train.trainer import Trainer

SMALL_MODEL = DecoderConfig(
    vocab_size=257,
    dim=128,
    num_layers=4,
    context=256,
    attention=AttentionConfig(num_heads=4),
    moe=MoEConfig(num_experts=16, experts=GLUExpertsConfig(hidden=128)),
)
"""Bytes in, bytes out: it learns something in minutes on two CPU cores."""


@config
class DataConfig:
    """What text, and how it becomes tokens."""

    sources: tuple[str, ...] = Field(default=("builtin",), min_length=1)
    """Text files, folders, .jsonl, .parquet, hf:NAME, or builtin: the standard library of the interpreter."""
    weights: tuple[float, ...] | None = None
    """How often each source is drawn from; None: by its size."""
    tokenizer: TokenizerConfig = ByteTokenizerConfig()
    """How text becomes tokens."""
    held_out: float = Field(default=0.02, ge=0, le=0.5)
    """Share of each domain's documents that training never sees."""
    seed: int = Field(default=0, ge=0)
    """Chooses those documents."""
    keep_documents_apart: bool = False
    """Attention does not cross from one document into the next, and positions restart."""

    def __post_init__(self) -> None:
        count = len(self.sources) if self.weights is None else len(self.weights)
        rule = f"must be one for each of the {len(self.sources)} sources"
        check(count == len(self.sources), "weights", rule, f"{count} weights", "give as many")


@config
class TrainConfig:
    """A training run."""

    model: DecoderConfig = SMALL_MODEL
    """What is trained."""
    data: DataConfig = DataConfig()
    """On what."""
    optimizer: OptimizerConfig = MuonConfig()
    """What moves the weights."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate goes."""
    balance: BalanceConfig = BalanceConfig()
    """What keeps experts equally loaded."""
    steps: int = Field(default=1000, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=16, ge=1)
    """Sequences in an optimiser step."""
    sequence_length: int = Field(default=256, ge=1)
    """Tokens in a sequence."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches that an optimiser step is cut into, to need less memory."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; None: not."""
    max_skipped: int = Field(default=3, ge=0)
    """So many steps in a row may be skipped because the loss or a gradient is not finite."""
    seed: int = Field(default=0, ge=0)
    """Of the initial weights, of the order of the data and of noise."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: DTypeName = "auto"
    """What to compute in; parameters stay in float32."""
    compile: bool = False
    """Let torch.compile fuse each block."""
    activation_checkpointing: bool = False
    """Compute each block again in backward rather than keep its activations."""
    evaluate_every: int = Field(default=100, ge=1)
    """Steps between evaluations; there is one after the last step too."""
    eval_tokens: int = Field(default=16_384, ge=1)
    """Held-out tokens of each domain to evaluate on, at most."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between checkpoints; there is one after the last step too."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints to keep, the latest ones."""

    def __post_init__(self) -> None:
        check(
            self.accumulate <= self.batch_size,
            "accumulate",
            "must be at most batch_size",
            f"accumulate={self.accumulate} with batch_size={self.batch_size}",
            "lower it",
        )
        check(
            self.sequence_length <= self.model.context,
            "sequence_length",
            f"must be at most model.context={self.model.context}",
            self.sequence_length,
            "lower it or raise the context",
        )

    def build(self, model: Decoder | None = None, multiplier: Callable[[int], float] | None = None) -> Trainer:
        """The trainer at step 0.

        Args:
            model: what to train; None: a model built from the seed.
            multiplier: step, counted from 0, -> share of the peak learning rates; None: the schedule over `steps`.
        """
        precision = choose_precision(self.device, self.dtype)
        model = self.model.build(self.seed) if model is None else model
        model.to(precision.device)
        if self.compile:
            for block in model.blocks:
                block.compile()
        return Trainer(
            model,
            self.optimizer.build(model),
            multiplier or partial(self.schedule.multiplier, steps=self.steps),
            balance=self.balance.build(self.model),
            precision=precision,
            seed=self.seed,
            clip_norm=self.clip_norm,
            max_skipped=self.max_skipped,
            activation_checkpointing=self.activation_checkpointing,
        )
