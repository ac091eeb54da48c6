"""Tiny stored models in float64 whose parameters, biases too, are of size 1 or so; and what they compute."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from sparsemix import GLUExpertsConfig, MoEConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.models import AttentionConfig, Decoder, DecoderConfig
from sparsemix.surgery import Edited, Text
from sparsemix.tensors import Held

HIDDEN = 12
EXPERTS = GLUExpertsConfig(hidden=HIDDEN)


class Counted(Held):
    """Counts what is read of it."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.reads: Counter[str] = Counter()

    def read(self, name: str) -> Tensor:
        self.reads[name] += 1
        return super().read(name)


def decoder_config(**fields) -> DecoderConfig:
    attention = AttentionConfig(num_heads=2)
    return DecoderConfig(
        **{"vocab_size": 17, "dim": 8, "num_layers": 2, "context": 16, "attention": attention, **fields}
    )


def stored(seed: int = 0, **fields) -> StoredModel:
    """A model with these fields; a state that follows the load is random, too."""
    config = decoder_config(**fields)
    tensors = config.build(seed).double().state_dict()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in tensors.items():
        if "bias" in name:
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) / 4)
        if "router.weight" in name:
            tensor.mul_(3)  # far from ties
    return StoredModel(config, Counted(tensors), "sparsemix")


def dense(seed: int = 0, kind=EXPERTS, **fields) -> StoredModel:
    return stored(seed, ffn=kind, **fields)


def sparse(seed: int = 0, num_experts: int = 4, router=None, kind=EXPERTS, **fields) -> StoredModel:
    mixture = {"num_experts": num_experts, "experts": kind} | ({} if router is None else {"router": router})
    return stored(seed, moe=MoEConfig(**mixture), **fields)


def built(model: StoredModel) -> Decoder:
    """In evaluation mode; every tensor is there, and no other."""
    decoder = model.config.build().double()
    decoder.load_state_dict({name: model.tensors.read(name).clone() for name in model.tensors.specs})
    return decoder.eval()


def text() -> Text:
    """Three sequences of 16 tokens."""
    return Text(torch.randint(17, (3, 16), generator=torch.Generator().manual_seed(7)), num_bytes=45)


@torch.no_grad()
def logits(model: StoredModel) -> Tensor:
    """For these."""
    decoder = built(model)
    return decoder.logits(decoder(text().tokens_BS).hidden_BSD)


def change(before: StoredModel, after: Edited) -> float:
    """The largest change of a logit."""
    return (logits(after.model) - logits(before)).abs().max().item()


def check_theory(before: StoredModel, after: Edited, exact: bool) -> None:
    """Theory says so, and so it is: no change but for rounding, or one that everybody sees."""
    assert after.theory.exact == exact, after.theory.why
    found = change(before, after)
    assert found < 1e-10 if exact else found > 1e-4, (found, after.theory.why)


def kind_of(value: object) -> str:
    """What a test of it is called."""
    return getattr(value, "type", None) or str(value)
