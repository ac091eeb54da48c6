"""The trainer: a model, its optimiser and their schedule, moved one optimiser step at a time; it knows no files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.data import Batch
from sparsemix.models import Decoder
from sparsemix.models.following import follow, routers
from sparsemix.train.balancing import Balance
from sparsemix.train.optim import ModelOptimizer
from sparsemix.train.precision import Precision
from sparsemix.train.random_stream import RandomStream
from sparsemix.train.step import Gathered, GradientStep, Observer

RNG = "rng/"


class TrainingError(RuntimeError):
    """Training cannot go on; one line says why and what to change."""


class StepReport(NamedTuple):
    """What one optimiser step was like."""

    step: int
    """Steps done, this one included; the first is 1."""
    loss: float
    """Mean cross-entropy, nats a token."""
    balance: float
    """The balance losses with their coefficients, summed over layers."""
    grad_norm: float
    """Of all gradients together, before clipping."""
    lr: float
    """Learning rate of the matrices."""
    tokens: int
    """Tokens in the batch."""
    seconds: float
    """Wall-clock time of the step, optimiser included."""
    skipped: bool
    """The loss or a gradient was not finite, and nothing was moved."""
    load: tuple[Tensor, ...]
    """Choices of each expert, int64 (E,) on the CPU, for each layer with a mixture."""

    @property
    def imbalance(self) -> float | None:
        """Load of the fullest expert over the mean load, averaged over layers: 1 at best; None without a mixture."""
        if not self.load:
            return None
        ratios = [float(load_E.max() * len(load_E) / load_E.sum().clamp(min=1)) for load_E in self.load]
        return sum(ratios) / len(ratios)


class TrainerState(NamedTuple):
    """Everything a trainer needs to go on as if it had never stopped."""

    model: dict[str, Tensor]
    """Parameters and buffers."""
    optimizer: dict[str, Tensor]
    """The optimiser's state, and that of the random numbers under `rng/`."""
    values: dict[str, Any]
    """JSON."""


class Trainer:
    """Takes optimiser steps. Several can work in turns: each has random numbers of its own for noise in forward.

    Args:
        model: on the device of `precision`.
        optimizer: of its parameters.
        multiplier: step, counted from 0, -> share of the peak learning rates.
        balance: which balance losses.
        precision: where, and in which dtype.
        seed: of the noise.
        clip_norm: gradients are scaled down to this norm; None: not.
        max_skipped: as many steps in a row may be skipped for a loss or gradient that is not finite.
        activation_checkpointing: compute each block again in backward rather than keep its activations.
    """

    def __init__(
        self,
        model: Decoder,
        optimizer: ModelOptimizer,
        multiplier: Callable[[int], float],
        *,
        balance: Balance = Balance(),  # noqa: B008, they are frozen
        precision: Precision = Precision(),  # noqa: B008
        seed: int = 0,
        clip_norm: float | None = 1.0,
        max_skipped: int = 3,
        activation_checkpointing: bool = False,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.balance = balance
        self.precision = precision
        self.steps_done = 0
        self._gradients = GradientStep(model, balance, precision, activation_checkpointing)
        self._multiplier = multiplier
        self._clip_norm = clip_norm
        self._max_skipped = max_skipped
        self._skipped_in_a_row = 0
        self._stream = RandomStream(seed, precision.device)

    def step(self, batches: Sequence[Batch], observers: Sequence[Observer] = ()) -> StepReport:
        """One optimiser step over these micro-batches.

        A step whose loss or gradient is not finite moves nothing: neither weights nor the routers' state.

        Raises:
            TrainingError: more than `max_skipped` such steps in a row.
        """
        began = time.perf_counter()
        self.model.train()
        with self._stream.active():
            gathered = self._gradients.gather(batches, self.steps_done + 1, observers)
        grad_norm = self._grad_norm()
        loss, balance = gathered.loss.item(), gathered.balance.item()
        skipped = not (math.isfinite(loss) and math.isfinite(balance) and math.isfinite(grad_norm))
        if not skipped:
            self._move(gathered, grad_norm)
        self.optimizer.zero_grad()
        self.steps_done += 1
        self._note(skipped, loss, grad_norm)
        return StepReport(
            step=self.steps_done,
            loss=loss,
            balance=balance,
            grad_norm=grad_norm,
            lr=self.optimizer.lr,
            tokens=sum(batch.tokens_BS.size for batch in batches),
            seconds=time.perf_counter() - began,
            skipped=skipped,
            load=tuple(load_E.cpu() for load_E in gathered.load),
        )

    def state(self) -> TrainerState:
        """All of it; the tensors are those in use, not copies."""
        stream = {RNG + name: tensor for name, tensor in self._stream.state().items()}
        return TrainerState(
            model=dict(self.model.state_dict()),
            optimizer=self.optimizer.state() | stream,
            values={"step": self.steps_done, "skipped_in_a_row": self._skipped_in_a_row},
        )

    def load_state(self, state: TrainerState) -> None:
        """Take over copies of what `state` gave; the next step is then the one it would have been."""
        load_weights(self.model, state.model)
        self.optimizer.load_state({k: v for k, v in state.optimizer.items() if not k.startswith(RNG)})
        self._stream.load_state({k.removeprefix(RNG): v for k, v in state.optimizer.items() if k.startswith(RNG)})
        self.steps_done = state.values["step"]
        self._skipped_in_a_row = state.values["skipped_in_a_row"]

    def _grad_norm(self) -> float:
        gradients = [p.grad for p in self.optimizer.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()

    def _move(self, gathered: Gathered, grad_norm: float) -> None:
        if self._clip_norm is not None and grad_norm > self._clip_norm:
            norm = torch.tensor(grad_norm, device=self.precision.device)
            torch.nn.utils.clip_grads_with_norm_(self.optimizer.parameters, self._clip_norm, norm)
        self.optimizer.step(self._multiplier(self.steps_done))
        for layer, total in zip(routers(self.model).values(), gathered.statistic, strict=True):
            follow(layer, total)

    def _note(self, skipped: bool, loss: float, grad_norm: float) -> None:
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._skipped_in_a_row > self._max_skipped:
            raise TrainingError(
                f"loss: must be finite, got loss {loss} with gradient norm {grad_norm} at step {self.steps_done} and "
                f"the like for {self._skipped_in_a_row} steps in a row; lower the learning rate"
            )


def load_weights(model: Decoder, weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the model.

    Raises:
        ValueError: a tensor is missing, is of no use, or has another shape.
    """
    own = model.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        wanted, found = (str(tuple(t[name].shape)) if name in t else "none" for t in (own, weights))
        check(wanted == found, "weights", f"{name} must have shape {wanted}", found, "use the same model config")
    model.load_state_dict(weights)
