"""A layer and a decoder that verification finds nothing wrong with, for tests to spoil."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sparsemix import Decoder, DecoderConfig, GLUExpertsConfig, MoE, MoEConfig, TopKRouterConfig
from sparsemix.models import AttentionConfig
from sparsemix.verify import Finding, Subject

DIM = 16
LAYER = MoEConfig(
    num_experts=6,
    router=TopKRouterConfig(k=2, bias=True),
    experts=GLUExpertsConfig(hidden=12, bias=True),
    shared=GLUExpertsConfig(hidden=8),
    shared_gate=True,
    routed_scale=1.5,
)


def layer(config: MoEConfig = LAYER) -> MoE:
    """All of its parameters of about the size that training gives them, biases too."""
    torch.manual_seed(0)
    moe = config.build(DIM)
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.copy_(torch.randn(parameter.shape) * max(parameter.shape[-1], 4) ** -0.5)
    return moe


def subject(moe: MoE, losses: Iterable = ()) -> Subject:
    return Subject(moe, "layer", (DIM,), 24, tuple(losses))


def decoder_config(moe: MoEConfig | None = LAYER, **fields) -> DecoderConfig:
    fields = {"attention": AttentionConfig(num_heads=2), **fields}
    return DecoderConfig(vocab_size=40, dim=DIM, num_layers=2, context=32, moe=moe, **fields)


def decoder(config: DecoderConfig | None = None) -> Decoder:
    return (config or decoder_config()).build()


def failed(findings: Finding | Iterable[Finding]) -> list[str]:
    """The checks that found a fault."""
    rows = [findings] if isinstance(findings, Finding) else list(findings)
    return [row.check for row in rows if row.passed is False]


def passed(findings: Finding | Iterable[Finding]) -> bool:
    """None found a fault, and at least one was able to."""
    rows = [findings] if isinstance(findings, Finding) else list(findings)
    return not failed(rows) and any(row.passed for row in rows)
