"""What the parameters of transformers' Mixtral are called here."""

from __future__ import annotations

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


def our_name(theirs: str) -> str:
    """Our name of a parameter of Mixtral, or of those that a model has in common with it."""
    for old, new in RENAMED:
        theirs = theirs.replace(old, new)
    return theirs
