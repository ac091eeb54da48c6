"""What our own loop does for routers after each step, for transformers' Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sparsemix.checks import check
from sparsemix.interop.hf_model.model import SparsemixForCausalLM
from sparsemix.models import Decoder, DecoderOutput
from sparsemix.models.following import Total, add_up, follow, routers, statistics


class RouterUpdates(TrainerCallback):
    """Lets routers follow their load once an optimiser step: selection biases, ReMoE's coefficient, thresholds.

    Routers that do not follow their load are left alone. For `Trainer(model, ..., callbacks=[RouterUpdates()])`.
    """

    def __init__(self) -> None:
        self._seen: list[list[Total]] = []  # of each micro-batch, what the routers of each layer want to know
        self._hooks: list[Any] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **others: Any
    ) -> None:
        """Begin to watch routings."""
        rule, remedy = "must be 1, since loads are not summed over processes", "train with one process"
        check(args.world_size == 1, "world_size", rule, args.world_size, remedy)
        self._stop()  # watching for a training that was interrupted
        decoder = _decoder(model)
        self._hooks = [
            decoder.register_forward_pre_hook(_keep_routings, with_kwargs=True),
            decoder.register_forward_hook(self._watch),
        ]

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **others: Any
    ) -> None:
        """Hand each router what it wants to know of the whole batch."""
        for layer, parts in zip(routers(_decoder(model)).values(), zip(*self._seen), strict=True):
            follow(layer, add_up(parts))
        self._seen = []

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **others: Any
    ) -> None:
        """Stop watching."""
        self._stop()

    def _watch(self, decoder: Decoder, args: Any, output: DecoderOutput) -> None:
        if not decoder.training:
            return
        with torch.no_grad():
            layers = zip(routers(decoder).values(), output.collected, strict=True)
            self._seen.append([statistics(layer, kept.routing) for layer, kept in layers])

    def _stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._seen = [], []


def _keep_routings(decoder: Decoder, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Beside what the wrapper collects; the config, which checkpoints are saved with, stays as it is."""
    collect = options["collect"]
    return args, options | {"collect": lambda layer, routing: collect(layer, routing)._replace(routing=routing)}


def _decoder(model: nn.Module) -> Decoder:
    """Inside PEFT's models and others'."""
    found = [module for module in model.modules() if isinstance(module, SparsemixForCausalLM)]
    check(len(found) == 1, "model", "must have one SparsemixForCausalLM", len(found), "give Trainer such a model")
    return found[0].model
