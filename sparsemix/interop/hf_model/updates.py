"""What our own loop does for routers after each step, for transformers' Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparsemix.checks import check
from sparsemix.interop.hf_model.model import SparsemixForCausalLM
from sparsemix.interop.hf_model.output import SparsemixOutput
from sparsemix.routers import Router
from sparsemix.routing import flatten

Statistics = list[Tensor | None]


class RouterUpdates(TrainerCallback):
    """Lets routers follow their load once an optimiser step: selection biases, ReMoE's coefficient, thresholds.

    Routers that do not follow their load are left alone. For `Trainer(model, ..., callbacks=[RouterUpdates()])`.
    """

    def __init__(self) -> None:
        self._totals: Statistics = []
        self._hook: Any = None
        self._before = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **others: Any
    ) -> None:
        """Begin to watch routings."""
        rule, remedy = "must be 1, since loads are not summed over processes", "train with train.py's own loop"
        check(args.world_size == 1, "world_size", rule, args.world_size, remedy)
        wrapper = _wrapper(model)
        self._before, wrapper.config.output_routings = wrapper.config.output_routings, True
        self._hook = wrapper.register_forward_hook(self._watch)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **others: Any
    ) -> None:
        """Hand each router what it wants to know of the whole batch."""
        for router, statistic in zip(_routers(_wrapper(model)), self._totals, strict=True):
            if statistic is not None:
                router.update(statistic)
        self._totals = []

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **others: Any
    ) -> None:
        """Stop watching."""
        self._hook.remove()
        _wrapper(model).config.output_routings = self._before

    def _watch(self, wrapper: nn.Module, args: Any, output: SparsemixOutput) -> None:
        assert isinstance(wrapper, SparsemixForCausalLM)
        if not wrapper.training or output.routings is None:
            return
        with torch.no_grad():
            routings = [one for routing in output.routings for one in flatten(routing)]
            found = [router.statistic(one) for router, one in zip(_routers(wrapper), routings, strict=True)]
        pairs = zip(self._totals or [None] * len(found), found, strict=True)
        self._totals = [new if old is None or new is None else old + new for old, new in pairs]


def _wrapper(model: nn.Module) -> SparsemixForCausalLM:
    """The model inside PEFT's and others'."""
    found = [module for module in model.modules() if isinstance(module, SparsemixForCausalLM)]
    check(len(found) == 1, "model", "must have one SparsemixForCausalLM", len(found), "give Trainer such a model")
    return found[0]


def _routers(wrapper: SparsemixForCausalLM) -> list[Router]:
    decoder = wrapper.model
    return [router for layer in decoder.config.moe_layers for router in decoder.blocks[layer].ffn.routers()]  # type: ignore[union-attr]
