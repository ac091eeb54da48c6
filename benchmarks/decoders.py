"""The decoder of this library and transformers' Mixtral, of the same shape and with the same weights."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import MixtralConfig, MixtralForCausalLM
from transformers.utils import logging

from sparsemix import GLUExpertsConfig, MoEConfig, TopKRouterConfig
from sparsemix.models import AttentionConfig, Decoder, DecoderConfig

RENAMED = (
    ("model.", ""),
    ("lm_head", "unembedding"),
    ("embed_tokens", "embedding"),
    ("layers.", "blocks."),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attention.query"),
    ("self_attn.k_proj", "attention.key"),
    ("self_attn.v_proj", "attention.value"),
    ("self_attn.o_proj", "attention.output"),
    ("mlp.gate.weight", "ffn.router.weight_ED"),
    ("mlp.experts.gate_up_proj", "ffn.experts.gate_up_EFD"),
    ("mlp.experts.down_proj", "ffn.experts.down_EDF"),
)
"""What the parameters of transformers' Mixtral are called in memory, and here."""


class DecoderShape(NamedTuple):
    """Of a decoder."""

    dim: int
    hidden: int
    experts: int
    k: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int

    @property
    def expert_numbers(self) -> int:
        """In the weights of one expert of one layer."""
        return 3 * self.hidden * self.dim


def quieten_transformers() -> None:
    """No advice and no progress bars between results."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def our_decoder(shape: DecoderShape) -> Decoder:
    """The decoder of this library."""
    return DecoderConfig(
        vocab_size=shape.vocab,
        dim=shape.dim,
        num_layers=shape.layers,
        context=shape.context,
        attention=AttentionConfig(num_heads=shape.heads, num_kv_heads=shape.kv_heads),
        moe=MoEConfig(
            num_experts=shape.experts,
            router=TopKRouterConfig(k=shape.k),
            experts=GLUExpertsConfig(hidden=shape.hidden),
        ),
    ).build()


def their_mixtral(shape: DecoderShape, experts_implementation: str, **options: Any) -> MixtralForCausalLM:
    """The same architecture in transformers."""
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=shape.vocab,
            hidden_size=shape.dim,
            intermediate_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            num_local_experts=shape.experts,
            num_experts_per_tok=shape.k,
            max_position_embeddings=shape.context,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]  # these two are not in the signature
            experts_implementation=experts_implementation,  # pyright: ignore[reportCallIssue]
            **options,
        )
    )


def give_weights(ours: Decoder, theirs: MixtralForCausalLM, *, share: bool) -> None:
    """Make theirs compute the same: from copies of our weights, or from the very same memory."""
    weights = ours.state_dict()
    theirs.load_state_dict({key: weights[our_name(key)] for key in theirs.state_dict()}, assign=share)


def our_name(theirs: str) -> str:
    """Our name of a parameter of Mixtral."""
    for old, new in RENAMED:
        theirs = theirs.replace(old, new)
    return theirs
