"""Our tensors under llama.cpp's names: cut, stacked and permuted as its loader expects them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.interop.gguf.architecture import GPT_OSS, Architecture
from sparsemix.interop.pairs import side_by_side
from sparsemix.models import DecoderConfig, LatentAttentionConfig
from sparsemix.tensors import Recipe, TensorSource

Make = Callable[[Sequence[Tensor]], Tensor]
Outputs = tuple[tuple[str, Make], ...]
"""Tensors of the file, all of which are made of one of ours."""


def recipes(config: DecoderConfig, architecture: Architecture, source: TensorSource) -> dict[str, Recipe]:
    """How each tensor of the file is made of ours; each of ours is used.

    Raises:
        ValueError: there is a tensor that the file has no place for.
    """
    table = _table(config, architecture)
    found: dict[str, Recipe] = {}
    for name in source.specs:
        prefix, key = _split(name)
        check(key in table, name, f"must have a place in llama.cpp's {architecture.name}", "none")
        found |= {prefix + ours: Recipe((name,), make) for ours, make in table[key]}
    if config.tie_embeddings and not architecture.tied:
        found["output.weight"] = Recipe(("embedding.weight",), _same)
    scaling = config.attention.rope_scaling
    if scaling is not None and scaling.type == "llama3":
        factors = _slowdown(config)
        found["rope_freqs.weight"] = Recipe((), lambda _: factors)
    return found


def _split(name: str) -> tuple[str, str]:
    """What a tensor's name becomes in front, and its key in the table: those of blocks have a number."""
    if not name.startswith("blocks."):
        return "", name
    _, layer, key = name.split(".", 2)
    return f"blk.{layer}.", key


def _same(ours: Sequence[Tensor]) -> Tensor:
    return ours[0]


def _one(name: str, make: Make = _same) -> Outputs:
    return ((name, make),)


def _gate_and_up(gate: str, up: str, axis: int) -> Outputs:
    """Rows of the gate, then as many of the up projection, as two tensors."""
    return (gate, lambda ours: ours[0].chunk(2, axis)[0]), (up, lambda ours: ours[0].chunk(2, axis)[1])


def _table(config: DecoderConfig, architecture: Architecture) -> Mapping[str, Outputs]:
    attention = config.attention
    if isinstance(attention, LatentAttentionConfig):
        projections = _latent(attention)
    else:
        projections = _grouped(attention.head_size(config.dim), architecture)
    norm = "post_attention_norm" if architecture is GPT_OSS else "ffn_norm"
    return _ENDS | _FFN | projections | {"ffn_norm.weight": _one(f"{norm}.weight")}


_ENDS: dict[str, Outputs] = {
    "embedding.weight": _one("token_embd.weight"),
    "norm.weight": _one("output_norm.weight"),
    "unembedding.weight": _one("output.weight"),
}

_FFN: dict[str, Outputs] = {
    "ffn.gate_up_FD": _gate_and_up("ffn_gate.weight", "ffn_up.weight", 0),
    "ffn.down_DF": _one("ffn_down.weight"),
    "ffn.router.weight_ED": _one("ffn_gate_inp.weight"),
    "ffn.router.bias_E": _one("ffn_gate_inp.bias"),
    "ffn.router.selection_bias.bias_E": _one("exp_probs_b.bias"),
    "ffn.experts.gate_up_EFD": _gate_and_up("ffn_gate_exps.weight", "ffn_up_exps.weight", 1),
    "ffn.experts.gate_up_bias_EF": _gate_and_up("ffn_gate_exps.bias", "ffn_up_exps.bias", 1),
    "ffn.experts.down_EDF": _one("ffn_down_exps.weight"),
    "ffn.experts.down_bias_ED": _one("ffn_down_exps.bias"),
    "ffn.shared.gate_up_FD": _gate_and_up("ffn_gate_shexp.weight", "ffn_up_shexp.weight", 0),
    "ffn.shared.down_DF": _one("ffn_down_shexp.weight"),
    "ffn.shared_gate.weight": _one("ffn_gate_inp_shexp.weight", lambda ours: ours[0][0]),
}


def _grouped(head_dim: int, architecture: Architecture) -> dict[str, Outputs]:
    def turned(ours: Sequence[Tensor]) -> Tensor:
        return ours[0] if architecture.pairs == "halves" else side_by_side(ours[0], head_dim, head_dim)

    return {
        "attention_norm.weight": _one("attn_norm.weight"),
        "attention.query.weight": _one("attn_q.weight", turned),
        "attention.query.bias": _one("attn_q.bias", turned),
        "attention.key.weight": _one("attn_k.weight", turned),
        "attention.key.bias": _one("attn_k.bias", turned),
        "attention.value.weight": _one("attn_v.weight"),
        "attention.value.bias": _one("attn_v.bias"),
        "attention.output.weight": _one("attn_output.weight"),
        "attention.output.bias": _one("attn_output.bias"),
        "attention.query_norm.weight": _one("attn_q_norm.weight"),
        "attention.key_norm.weight": _one("attn_k_norm.weight"),
        "attention.sink_H": _one("attn_sinks.weight"),
    }


def _latent(attention: LatentAttentionConfig) -> dict[str, Outputs]:
    nope, rope, value = attention.nope_dim, attention.rope_dim, attention.value_dim

    def turned(ours: Sequence[Tensor]) -> Tensor:
        return side_by_side(ours[0], nope + rope, rope)

    def turned_once(ours: Sequence[Tensor]) -> Tensor:
        return side_by_side(ours[0], attention.kv_rank + rope, rope)

    def key_up(ours: Sequence[Tensor]) -> Tensor:  # of each head, from its key to the latent: llama.cpp applies it to q
        return ours[0].unflatten(0, (-1, nope + value))[:, :nope].transpose(1, 2)

    def value_up(ours: Sequence[Tensor]) -> Tensor:
        return ours[0].unflatten(0, (-1, nope + value))[:, nope:]

    return {
        "attention_norm.weight": _one("attn_norm.weight"),
        "attention.query.weight": _one("attn_q.weight", turned),
        "attention.query_down.weight": _one("attn_q_a.weight"),
        "attention.query_norm.weight": _one("attn_q_a_norm.weight"),
        "attention.query_up.weight": _one("attn_q_b.weight", turned),
        "attention.latent.weight": _one("attn_kv_a_mqa.weight", turned_once),
        "attention.latent_norm.weight": _one("attn_kv_a_norm.weight"),
        "attention.key_value_up.weight": (("attn_k_b.weight", key_up), ("attn_v_b.weight", value_up)),
        "attention.output.weight": _one("attn_output.weight"),
    }


def _slowdown(config: DecoderConfig) -> Tensor:
    """How many times slower each pair of a head turns than it would unstretched, (A/2,)."""
    attention = config.attention
    assert attention.rope_scaling is not None
    head_dim = attention.head_size(config.dim)
    plain = attention.rope_theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    return (plain / attention.rope_scaling.frequencies(plain, attention.rope_theta)).float()
