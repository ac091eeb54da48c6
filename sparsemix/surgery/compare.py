"""How far apart two models of one vocabulary are on some text."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.interop.stored import StoredModel
from sparsemix.kernels import at_least_float32
from sparsemix.surgery.text import Text
from sparsemix.surgery.walk import final_hidden, unembedder

LOGITS = 1 << 24
"""Logits of each model in memory at a time."""


class Change(NamedTuple):
    """What an edit did to what a model says of some text."""

    max_abs_logit: float
    """The largest difference of a logit."""
    kl: float
    """Mean over tokens of KL(before || after), nats."""
    loss_before: float
    """Nats a token."""
    loss_after: float
    bits_per_byte_before: float
    bits_per_byte_after: float


@torch.no_grad()
def compare(before: StoredModel, after: StoredModel, text: Text, device: torch.device | str = "cpu") -> Change:
    """Run both models over the text, one after the other, block by block.

    Beside one block and the streams of `walk`, the final hidden states and the unembeddings of both are in memory,
    and 2^24 logits of each.

    Raises:
        ValueError: the vocabularies are not of one size.
    """
    sizes = f"{before.config.vocab_size} and {after.config.vocab_size}"
    check(before.config.vocab_size == after.config.vocab_size, "vocab_size", "must be that of both models", sizes)
    hidden = [final_hidden(model, text.batches, device) for model in (before, after)]
    heads = [unembedder(model, device) for model in (before, after)]
    chunk = max(1, LOGITS // before.config.vocab_size)
    largest: list[Tensor] = []  # a tensor's maximum is NaN where a logit is, Python's is not
    kl, losses = 0.0, [0.0, 0.0]
    for tokens_BS, *both in zip(text.batches, *hidden):
        target_T = tokens_BS.to(device)[:, 1:].flatten()
        states = [state_BSD[:, :-1].flatten(0, 1) for state_BSD in both]
        for rows in (slice(start, start + chunk) for start in range(0, len(target_T), chunk)):
            logits = [_wide(head.logits(state_TD[rows])) for head, state_TD in zip(heads, states)]
            largest.append((logits[0] - logits[1]).abs().max())
            log_probs = [part.log_softmax(-1) for part in logits]
            kl += float((log_probs[0].exp() * (log_probs[0] - log_probs[1])).sum(dtype=torch.float64))
            for index, part in enumerate(log_probs):
                losses[index] -= float(part.gather(1, target_T[rows, None]).sum(dtype=torch.float64))
    num_targets = text.tokens_BS[:, 1:].numel()
    bits = [loss / math.log(2) / max(text.num_bytes, 1) for loss in losses]
    return Change(float(torch.stack(largest).max()), kl / num_targets, *(loss / num_targets for loss in losses), *bits)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(at_least_float32(logits.dtype))
