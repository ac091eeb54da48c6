"""transformers' sparse block of Mixtral as a contestant."""

from __future__ import annotations

from ours import Contestant, LayerShape
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from sparsemix import MoE


def transformers_layer(shape: LayerShape, moe: MoE, experts_implementation: str) -> Contestant:
    """transformers' sparse block of Mixtral, router included, with the weights of ours."""
    config = MixtralConfig(
        hidden_size=shape.dim,
        intermediate_size=shape.hidden,
        num_local_experts=shape.experts,
        num_experts_per_tok=shape.k,
        experts_implementation=experts_implementation,  # pyright: ignore[reportCallIssue]  # not in the signature
    )
    block = MixtralSparseMoeBlock(config)
    weights = dict(zip(block.state_dict(), moe.state_dict().values(), strict=True))
    block.load_state_dict(weights)
    return Contestant(block, lambda x_TD: block(x_TD[None])[0])
