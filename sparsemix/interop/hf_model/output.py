"""What the model gives, and what it keeps of each routing on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Cache
from transformers.utils.generic import ModelOutput

from sparsemix.balance import Loss
from sparsemix.models import DecoderOutput
from sparsemix.models.block import Collect
from sparsemix.routing import Routing, flatten


@dataclass
class SparsemixOutput(ModelOutput):
    """What a forward pass gives."""

    loss: Tensor | None = None
    """Mean cross-entropy of the labels in nats; in training, plus `aux_loss`."""
    aux_loss: Tensor | None = None
    """The balance losses, weighted and summed over layers; in training only."""
    logits: Tensor | None = None
    """(B, S, V), or of the places that `logits_to_keep` names."""
    past_key_values: Cache | None = None
    """With the keys and values of these tokens."""
    routings: tuple[Routing, ...] | None = None
    """Of each mixture, in order, where `output_routings` is set: logits, probabilities, choices and weights."""


class Kept(NamedTuple):
    """Of one mixture's routing."""

    balance: Tensor | None
    routing: Routing | None


def collector(losses: Sequence[Loss] | None, keep_routings: bool) -> Collect:
    """What a block does with its routing; None: no balance losses are wanted, whatever the routers ask for."""

    def collect(layer: int, routing: Routing) -> Kept:
        balance = None if losses is None else _balance(routing, losses)
        return Kept(balance, routing if keep_routings else None)

    return collect


def total(output: DecoderOutput) -> Tensor:
    """The balance losses of all layers, and what mixtures of depths ask for."""
    terms = [kept.balance for kept in output.collected]
    terms += [routing.loss for routing in output.depth if routing.loss is not None]
    return torch.stack(terms).sum() if terms else output.hidden_BSD.new_zeros(())


def share(labels_BS: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor | float:
    """Of the batch that is accumulated: balance losses are no sums over tokens, so their mean is to be taken."""
    if num_items_in_batch is None:
        return 1.0
    return (labels_BS[:, 1:] != -100).sum() / num_items_in_batch


def _balance(routing: Routing, losses: Sequence[Loss]) -> Tensor:
    routings = flatten(routing)
    terms = [routing.weight_N.new_zeros(())]
    terms += [loss.weight * loss(one) for one in routings for loss in losses if loss.weight]
    terms += [one.loss for one in routings if one.loss is not None]
    return torch.stack(terms).sum()
