"""DeepSeek-V2 (2405.04434) and V3 (2412.19437): latent attention, shared experts, groups of experts."""

from __future__ import annotations

from typing import Any

from sparsemix.experts import GLUExpertsConfig
from sparsemix.interop.families.common import (
    DENSE,
    EXPERTS,
    EXPERTS_KEYS,
    NAMES,
    THEIR_ACTIVATIONS,
    decoder_keys,
    dense_names,
    read_activation,
    read_decoder,
)
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.rope import Rope, read_rope, rope_keys
from sparsemix.interop.families.rules import Rule, Same, Table, TurningPairs
from sparsemix.layer import MoEConfig
from sparsemix.models import DecoderConfig, LatentAttentionConfig
from sparsemix.routers import GroupLimitedRouterConfig, SelectionBiasConfig, TopKRouterConfig

EPS = 1e-6
"""In the norms of latents, whatever the config says of others."""
IGNORED = ("ep_size", "aux_loss_alpha", "seq_aux", "num_nextn_predict_layers", "head_dim", "qk_head_dim")
"""Of training, or said by other keys too."""
V2_KEYS = {"scoring_func": "softmax", "norm_topk_prob": False}
V3_KEYS = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
"""How the routers differ: transformers knows it by the family, but libraries that run both by the same code read it."""
ONE_GROUP = {"n_group": 1, "topk_group": 1}


def table(config: DecoderConfig) -> Table:
    """In queries, and in the key that all heads share, the numbers that turn are ordered in another way."""
    attention = config.attention
    assert isinstance(attention, LatentAttentionConfig)
    turning, here, there = attention.rope_dim, "blocks.*.attention", "model.layers.*.self_attn"
    query = {"head": attention.nope_dim + turning, "turning": turning}
    latent = {"head": attention.kv_rank + turning, "turning": turning}
    own: dict[str, Rule] = {
        f"{here}.query.weight": TurningPairs(f"{there}.q_proj.weight", **query),
        f"{here}.query_down.weight": Same(f"{there}.q_a_proj.weight"),
        f"{here}.query_down.bias": Same(f"{there}.q_a_proj.bias"),
        f"{here}.query_norm.weight": Same(f"{there}.q_a_layernorm.weight"),
        f"{here}.query_up.weight": TurningPairs(f"{there}.q_b_proj.weight", **query),
        f"{here}.latent.weight": TurningPairs(f"{there}.kv_a_proj_with_mqa.weight", **latent),
        f"{here}.latent.bias": TurningPairs(f"{there}.kv_a_proj_with_mqa.bias", **latent),
        f"{here}.latent_norm.weight": Same(f"{there}.kv_a_layernorm.weight"),
        f"{here}.key_value_up.weight": Same(f"{there}.kv_b_proj.weight"),
        "blocks.*.ffn.router.selection_bias.bias_E": Same("model.layers.*.mlp.gate.e_score_correction_bias"),
    }
    shared = dense_names("blocks.*.ffn.shared", "model.layers.*.mlp.shared_experts")
    return NAMES | DENSE | EXPERTS | shared | own


def v2_to_ours(keys: Keys) -> DecoderConfig:
    keys.only("norm_topk_prob", False)
    keys.only("scoring_func", "softmax")
    keys.only("mlp_bias", False)
    k, groups, kept = keys.take("num_experts_per_tok"), keys.get("n_group"), keys.get("topk_group")
    method = {name: name for name in ("greedy", "group_limited_greedy")}
    if keys.choose("topk_method", method, "greedy") == "greedy":
        router = TopKRouterConfig(k=k, gate="softmax_topk", normalize=False)
    else:
        router = GroupLimitedRouterConfig(
            k=k,
            num_groups=groups,
            keep_groups=kept,
            gate="softmax_topk",
            group_score="best",
            normalize=False,
            selection_bias=None,
        )
    return _read(keys, router, scale=1.0, shared=2, dense=0)


def v2_to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config.moe:
        case MoEConfig(router=TopKRouterConfig() as router):
            return _written(config, router.k, V2_KEYS | ONE_GROUP | {"topk_method": "greedy"})
        case MoEConfig(router=GroupLimitedRouterConfig() as router):
            return _written(config, router.k, V2_KEYS | _groups(router) | {"topk_method": "group_limited_greedy"})
    return None


def v3_to_ours(keys: Keys) -> DecoderConfig:
    keys.only("rope_interleave", True)
    keys.only("scoring_func", "sigmoid")
    keys.only("topk_method", "noaux_tc")
    router = GroupLimitedRouterConfig(
        k=keys.take("num_experts_per_tok"),
        num_groups=keys.take("n_group"),
        keep_groups=keys.take("topk_group"),
        normalize=keys.get("norm_topk_prob", True),
        selection_bias=SelectionBiasConfig(),
    )
    return _read(keys, router, scale=2.5, shared=1, dense=3)


def v3_to_theirs(config: DecoderConfig) -> dict[str, Any] | None:
    match config.moe:
        case MoEConfig(router=GroupLimitedRouterConfig() as router):
            return _written(config, router.k, V3_KEYS | _groups(router) | {"norm_topk_prob": router.normalize})
        case MoEConfig(router=TopKRouterConfig() as router):
            return _written(config, router.k, V3_KEYS | ONE_GROUP | {"norm_topk_prob": router.normalize})
    return None


def _read(
    keys: Keys, router: TopKRouterConfig | GroupLimitedRouterConfig, *, scale: float, shared: int, dense: int
) -> DecoderConfig:
    """The decoder with this router; `scale`, `shared` and `dense` are for where the keys say nothing."""
    keys.only("moe_layer_freq", 1)
    keys.skip(*IGNORED)
    activation, hidden = read_activation(keys), keys.take("moe_intermediate_size")
    shared_hidden = hidden * keys.get("n_shared_experts", shared)
    moe = MoEConfig(
        num_experts=keys.take_one(*EXPERTS_KEYS),
        router=router,
        experts=GLUExpertsConfig(hidden=hidden, activation=activation),
        shared=GLUExpertsConfig(hidden=shared_hidden, activation=activation),
        routed_scale=keys.get("routed_scaling_factor", scale),
    )
    return read_decoder(
        keys,
        attention=_attention(keys),
        moe=moe,
        ffn=GLUExpertsConfig(hidden=keys.take("intermediate_size"), activation=activation),
        dense_first=keys.get("first_k_dense_replace", dense),
    )


def _attention(keys: Keys) -> LatentAttentionConfig:
    num_heads, rope = keys.take("num_attention_heads"), read_rope(keys)
    keys.only("num_key_value_heads", num_heads)
    nope_dim, rope_dim = keys.take("qk_nope_head_dim"), keys.take("qk_rope_head_dim")
    return LatentAttentionConfig(
        num_heads=num_heads,
        q_rank=keys.nullable("q_lora_rank", 1536),
        kv_rank=keys.take("kv_lora_rank"),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=keys.take("v_head_dim"),
        bias=keys.get("attention_bias", False),
        norm_eps=EPS,
        scale=None if rope.softmax_scale == 1 else (nope_dim + rope_dim) ** -0.5 * rope.softmax_scale,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
    )


def _written(config: DecoderConfig, k: int, router: dict[str, Any]) -> dict[str, Any] | None:
    """The keys of both, and these of the router's."""
    match config:
        case DecoderConfig(
            attention=LatentAttentionConfig() as attention,
            moe=MoEConfig(experts=GLUExpertsConfig() as experts, shared=GLUExpertsConfig() as shared) as moe,
        ):
            hidden = config.ffn.hidden if isinstance(config.ffn, GLUExpertsConfig) else 4 * config.dim
            return {
                **decoder_keys(config),
                **_attention_keys(attention),
                **router,
                "moe_layer_freq": 1,
                "first_k_dense_replace": min(config.moe_layers, default=config.num_layers),
                "intermediate_size": hidden,
                "n_routed_experts": moe.num_experts,
                "num_experts_per_tok": k,
                "n_shared_experts": shared.hidden // experts.hidden,
                "moe_intermediate_size": experts.hidden,
                "routed_scaling_factor": moe.routed_scale,
                "hidden_act": THEIR_ACTIVATIONS.get(experts.activation),
            }
    return None


def _attention_keys(attention: LatentAttentionConfig) -> dict[str, Any]:
    scale = 1.0 if attention.scale is None else attention.scale * attention.head_size(0) ** 0.5
    return {
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_heads,
        "q_lora_rank": attention.q_rank,
        "kv_lora_rank": attention.kv_rank,
        "qk_nope_head_dim": attention.nope_dim,
        "qk_rope_head_dim": attention.rope_dim,
        "v_head_dim": attention.value_dim,
        "attention_bias": attention.bias,
        **rope_keys(Rope(attention.rope_theta, attention.rope_scaling, scale)),
    }


def _groups(router: GroupLimitedRouterConfig) -> dict[str, Any]:
    return {"n_group": router.num_groups, "topk_group": router.keep_groups}


DEEPSEEK_V2 = Family("deepseek_v2", "DeepseekV2ForCausalLM", v2_to_ours, v2_to_theirs, table)
DEEPSEEK_V3 = Family("deepseek_v3", "DeepseekV3ForCausalLM", v3_to_ours, v3_to_theirs, table)
