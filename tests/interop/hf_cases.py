"""A small model of ours inside transformers' kind of model, and text to train it on."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

import torch
from models.examples import small_config
from torch import Tensor

from sparsemix.interop.hf_model import SparsemixConfig, SparsemixForCausalLM
from sparsemix.models import Decoder


def wrapped(balance_losses=None, **changes) -> SparsemixForCausalLM:
    """In evaluation mode."""
    return SparsemixForCausalLM(SparsemixConfig(small_config(**changes), balance_losses)).eval()


def logits_of(decoder: Decoder, tokens_BS: Tensor) -> Tensor:
    """Ours, without cache or padding."""
    with torch.no_grad():
        return decoder.logits(decoder(tokens_BS).hidden_BSD)


def counting(rows: int = 32, length: int = 12) -> list[dict[str, Tensor]]:
    """Sequences that count up from anywhere, modulo the vocabulary: soon learnt."""
    sequences = [(torch.arange(length) + 7 * row) % 50 for row in range(rows)]
    return [{"input_ids": tokens, "labels": tokens.clone()} for tokens in sequences]
