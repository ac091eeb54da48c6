"""Loss on held-out text, for each domain and for all of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from sparsemix.data import Batch, Tokenizer
from sparsemix.models import Decoder, evaluating, token_losses
from sparsemix.train.batch import to_tensors
from sparsemix.train.precision import Precision


class Score(NamedTuple):
    """How well some text is predicted."""

    loss: float
    """Nats a token."""
    bits_per_byte: float
    """Bits a byte of the text, which does not depend on the tokenizer."""
    tokens: int
    """Targets that count."""
    bytes: int
    """What they stand for."""


class Evaluation(NamedTuple):
    """All held-out text, and each domain of it."""

    total: Score
    domains: dict[str, Score]


def evaluate(
    model: Decoder,
    batches: Iterable[tuple[str, Batch]],
    tokenizer: Tokenizer,
    precision: Precision = Precision(),  # noqa: B008, a tuple
) -> Evaluation:
    """Mean loss over the targets of weight 1, in evaluation mode, without gradient.

    Args:
        model: on the device of `precision`.
        batches: domain and batch, as `held_out_batches` gives them.
        tokenizer: says how many bytes a token stands for.
        precision: the precision of training.

    Raises:
        ValueError: no target at all.
    """
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
    with evaluating(model):
        for domain, batch in batches:
            sums[domain] += _sums(model, batch, tokenizer.bytes_per_token_V, precision)
    if not sums:
        raise ValueError("evaluation: needs held-out text, got none; set data.held_out above 0")
    return Evaluation(
        _score(np.sum(list(sums.values()), axis=0)), {domain: _score(found) for domain, found in sums.items()}
    )


@torch.no_grad()
def _sums(model: Decoder, batch: Batch, bytes_per_token_V: np.ndarray, precision: Precision) -> np.ndarray:
    """Nats, tokens and bytes."""
    on_device = to_tensors(batch, precision.device)
    with precision.scope():
        hidden_BSD = model(
            on_device.tokens_BS,
            position_BS=on_device.position_BS,
            document_BS=on_device.document_BS,
            collect=lambda layer, routing: None,
        ).hidden_BSD
        loss_T = token_losses(hidden_BSD.flatten(0, 1), model.unembed_VD, on_device.targets_BS.flatten())
    counts_T = batch.weight_BS.reshape(-1) > 0
    nats_T = loss_T.double().cpu().numpy()[counts_T]
    target_T = batch.targets_BS.reshape(-1)[counts_T]
    return np.array([nats_T.sum(), len(nats_T), bytes_per_token_V[target_T].sum()])


def _score(sums: np.ndarray) -> Score:
    nats, tokens, num_bytes = sums.tolist()
    return Score(
        loss=nats / max(tokens, 1),
        bits_per_byte=nats / math.log(2) / max(num_bytes, 1),
        tokens=int(tokens),
        bytes=int(num_bytes),
    )
