"""Families whose attention is not plain: logits equal to those of transformers, whole and token by token."""

import math

import pytest
import torch

from sparsemix.experts import ClampedGLUExpertsConfig, GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import (
    AttentionConfig,
    DecoderConfig,
    LatentAttentionConfig,
    LinearRopeConfig,
    Llama3RopeConfig,
    WindowConfig,
    YarnConfig,
)
from sparsemix.routers import GroupLimitedRouterConfig, TopKRouterConfig

transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "eos_token_id": None,
    "bos_token_id": None,
}
LATENT = SHAPE | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 20,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 10,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 6,
    "v_head_dim": 12,
}
OURS = {"vocab_size": 60, "dim": 32, "num_layers": 3, "context": 64, "norm_eps": 1e-5}
LATENT_SIZES = {"num_heads": 4, "kv_rank": 10, "nope_dim": 6, "rope_dim": 8, "value_dim": 12, "norm_eps": 1e-6}
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
    ("self_attn.q_norm", "attention.query_norm"),
    ("self_attn.k_norm", "attention.key_norm"),
    ("self_attn.q_a_proj", "attention.query_down"),
    ("self_attn.q_a_layernorm", "attention.query_norm"),
    ("self_attn.q_b_proj", "attention.query_up"),
    ("self_attn.kv_a_proj_with_mqa", "attention.latent"),
    ("self_attn.kv_a_layernorm", "attention.latent_norm"),
    ("self_attn.kv_b_proj", "attention.key_value_up"),
    ("self_attn.sinks", "attention.sink_H"),
    ("block_sparse_moe.", "mlp."),
    ("mlp.gate.e_score_correction_bias", "ffn.router.selection_bias.bias_E"),
    ("mlp.gate.weight", "ffn.router.weight_ED"),
    ("mlp.router.weight", "ffn.router.weight_ED"),
    ("mlp.router.bias", "ffn.router.bias_E"),
    ("mlp.experts.gate_up_proj_bias", "ffn.experts.gate_up_bias_EF"),
    ("mlp.experts.down_proj_bias", "ffn.experts.down_bias_ED"),
    ("mlp.experts.gate_up_proj", "ffn.experts.gate_up_EFD"),
    ("mlp.experts.down_proj", "ffn.experts.down_EDF"),
    ("mlp.shared_experts.", "ffn.shared."),
    ("mlp.", "ffn."),
    ("down_proj.weight", "down_DF"),
)


def our_weights(theirs):
    renamed = {}
    for name, tensor in theirs.items():
        for old, new in RENAMED:
            name = name.replace(old, new)
        renamed[name] = tensor
    for name in [name for name in renamed if name.endswith("gate_proj.weight")]:
        up = renamed.pop(name.replace("gate_proj", "up_proj"))
        renamed[name.replace("gate_proj.weight", "gate_up_FD")] = torch.cat([renamed.pop(name), up])
    return renamed


def halves(rows, group, size):
    """The last `size` of each `group` rows, told apart by even and odd, as two halves instead."""
    grouped = rows.unflatten(0, (-1, group))
    kept, turned = grouped.split([group - size, size], dim=1)
    return torch.cat([kept, turned[:, ::2], turned[:, 1::2]], dim=1).flatten(0, 1)


def with_halves(weights):
    head, kept = LATENT_SIZES["nope_dim"] + 8, LATENT_SIZES["kv_rank"] + 8
    for name, tensor in weights.items():
        if name.endswith(("attention.query.weight", "attention.query_up.weight")):
            weights[name] = halves(tensor, head, 8)
        if ".attention.latent." in name:
            weights[name] = halves(tensor, kept, 8)
    return weights


def with_our_experts(weights):
    """gpt-oss stores matrices the other way round, and gate and up in turns."""
    for name, tensor in weights.items():
        if name.endswith("gate_up_EFD"):
            weights[name] = torch.cat([tensor[..., ::2], tensor[..., 1::2]], dim=-1).mT
        if name.endswith("gate_up_bias_EF"):
            weights[name] = torch.cat([tensor[..., ::2], tensor[..., 1::2]], dim=-1)
        if name.endswith("down_EDF"):
            weights[name] = tensor.mT
    return weights


def unchanged(weights):
    return weights


def latent_moe(router, **more):
    experts = GLUExpertsConfig(hidden=20)
    return {
        "moe": MoEConfig(num_experts=8, router=router, experts=experts, **more),
        "ffn": GLUExpertsConfig(hidden=24),
        "dense_first": 1,
    }


def deepseek_v2():
    theirs = transformers.DeepseekV2Config(
        **LATENT, q_lora_rank=14, n_shared_experts=2, topk_method="group_limited_greedy", routed_scaling_factor=1.5
    )
    router = GroupLimitedRouterConfig(
        k=3,
        num_groups=4,
        keep_groups=2,
        gate="softmax_topk",
        group_score="best",
        normalize=False,
        selection_bias=None,
    )
    config = DecoderConfig(
        **OURS,
        attention=LatentAttentionConfig(**LATENT_SIZES, q_rank=14),
        **latent_moe(router, shared=GLUExpertsConfig(hidden=40), routed_scale=1.5),
    )
    return transformers.DeepseekV2ForCausalLM(theirs), config, with_halves


def deepseek_v2_lite():
    scaling = {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
    }
    theirs = transformers.DeepseekV2Config(
        **LATENT, q_lora_rank=None, n_shared_experts=1, topk_method="greedy", rope_parameters=scaling
    )
    all_dim = 0.1 * 0.707 * math.log(4) + 1
    attention = LatentAttentionConfig(
        **LATENT_SIZES,
        scale=all_dim**2 / math.sqrt(14),
        rope_scaling=YarnConfig(factor=4, original_context=16, attention_factor=1.0),
    )
    router = TopKRouterConfig(k=3, normalize=False)
    config = DecoderConfig(
        **OURS, attention=attention, **latent_moe(router, shared=GLUExpertsConfig(hidden=20), routed_scale=1.0)
    )
    return transformers.DeepseekV2ForCausalLM(theirs), config, with_halves


def deepseek_v3():
    scaling = {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 1.3,
        "mscale_all_dim": 0.8,
    }
    theirs = transformers.DeepseekV3Config(
        **LATENT, q_lora_rank=14, n_shared_experts=1, attention_bias=True, rope_parameters=scaling
    )
    some, all_dim = (0.1 * mscale * math.log(4) + 1 for mscale in (1.3, 0.8))
    attention = LatentAttentionConfig(
        **LATENT_SIZES,
        q_rank=14,
        bias=True,
        scale=all_dim**2 / math.sqrt(14),
        rope_scaling=YarnConfig(factor=4, original_context=16, attention_factor=some / all_dim),
    )
    router = GroupLimitedRouterConfig(k=3, num_groups=4, keep_groups=2)
    config = DecoderConfig(
        **OURS, attention=attention, **latent_moe(router, shared=GLUExpertsConfig(hidden=20), routed_scale=2.5)
    )
    return transformers.DeepseekV3ForCausalLM(theirs), config, with_halves


def gpt_oss():
    scaling = {
        "rope_type": "yarn",
        "rope_theta": 150_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "truncate": False,
    }
    theirs = transformers.GptOssConfig(
        **SHAPE,
        head_dim=16,
        num_local_experts=6,
        num_experts_per_tok=2,
        sliding_window=8,
        rope_parameters=scaling,
    )
    attention = AttentionConfig(
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        bias="qkvo",
        sinks=True,
        rope_theta=150_000.0,
        rope_scaling=YarnConfig(factor=4, original_context=16, truncate=False),
    )
    router = TopKRouterConfig(k=2, gate="topk_softmax", bias=True)
    config = DecoderConfig(
        **OURS,
        attention=attention,
        window=WindowConfig(size=8, layers=(0, 2)),
        moe=MoEConfig(num_experts=6, router=router, experts=ClampedGLUExpertsConfig(hidden=24)),
    )
    return transformers.GptOssForCausalLM(theirs), config, with_our_experts


def granite():
    theirs = transformers.GraniteMoeConfig(
        **SHAPE,
        num_local_experts=6,
        num_experts_per_tok=2,
        embedding_multiplier=3.0,
        residual_multiplier=0.22,
        attention_multiplier=0.25,
        logits_scaling=1.5,
    )
    config = DecoderConfig(
        **OURS,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2, scale=0.25),
        moe=MoEConfig(
            num_experts=6,
            router=TopKRouterConfig(k=2, gate="topk_softmax"),
            experts=GLUExpertsConfig(hidden=24),
        ),
        embedding_scale=3.0,
        residual_scale=0.22,
        logit_scale=1 / 1.5,
    )
    return transformers.GraniteMoeForCausalLM(theirs), config, unchanged


def mistral():
    theirs = transformers.MistralConfig(**SHAPE, sliding_window=7)
    config = DecoderConfig(
        **OURS,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2),
        window=WindowConfig(size=7),
        ffn=GLUExpertsConfig(hidden=24),
    )
    return transformers.MistralForCausalLM(theirs), config, unchanged


def llama(scaling, parameters):
    theirs = transformers.LlamaConfig(**SHAPE, rope_parameters={"rope_theta": 500_000.0, "factor": 8.0} | parameters)
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, rope_theta=500_000.0, rope_scaling=scaling)
    config = DecoderConfig(**OURS, attention=attention, ffn=GLUExpertsConfig(hidden=24))
    return transformers.LlamaForCausalLM(theirs), config, unchanged


def llama_3():
    turns = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    return llama(Llama3RopeConfig(original_context=16), {"rope_type": "llama3"} | turns)


def llama_linear():
    return llama(LinearRopeConfig(factor=8), {"rope_type": "linear"})


def qwen3():
    theirs = transformers.Qwen3Config(
        **SHAPE, head_dim=16, use_sliding_window=True, sliding_window=5, max_window_layers=1
    )
    config = DecoderConfig(
        **OURS,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, qk_norm="head"),
        window=WindowConfig(size=5, layers=(1, 2)),
        ffn=GLUExpertsConfig(hidden=24),
    )
    return transformers.Qwen3ForCausalLM(theirs), config, unchanged


def qwen2():
    config = DecoderConfig(
        **OURS,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2, bias="qkv"),
        ffn=GLUExpertsConfig(hidden=24),
    )
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE)), config, unchanged


def qwen3_moe_with_dense_layers():
    theirs = transformers.Qwen3MoeConfig(
        **SHAPE,
        head_dim=16,
        moe_intermediate_size=20,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    )
    config = DecoderConfig(
        **OURS,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, qk_norm="head"),
        moe=MoEConfig(num_experts=6, router=TopKRouterConfig(k=2), experts=GLUExpertsConfig(hidden=20)),
        ffn=GLUExpertsConfig(hidden=24),
        dense_layers=(1,),
    )
    return transformers.Qwen3MoeForCausalLM(theirs), config, unchanged


FAMILIES = [
    deepseek_v2,
    deepseek_v2_lite,
    deepseek_v3,
    gpt_oss,
    granite,
    mistral,
    llama_3,
    llama_linear,
    qwen3,
    qwen2,
    qwen3_moe_with_dense_layers,
]


@pytest.fixture(params=FAMILIES)
def both(request):
    """Theirs and ours with equal random weights, in evaluation mode."""
    theirs, config, changed = request.param()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(1 + 0.3 * noise if "norm" in name else noise if "sinks" in name else 0.2 * noise)
    decoder = config.build()
    decoder.load_state_dict(changed(our_weights(theirs.state_dict())))
    return theirs.eval(), decoder.eval()


TOKENS_BS = torch.randint(60, (2, 40), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_logits_equal_those_of_transformers(both):
    theirs, decoder = both
    expected = theirs(TOKENS_BS).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(decoder.logits(decoder(TOKENS_BS).hidden_BSD), expected, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_decoding_with_a_cache_gives_the_same(both):
    theirs, decoder = both
    cache = decoder.new_cache(2, 40)
    parts = [decoder.logits(decoder(part, cache=cache).hidden_BSD) for part in TOKENS_BS.split([20, *[1] * 20], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), theirs(TOKENS_BS).logits, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_padding_on_the_left_gives_the_same(both):
    theirs, decoder = both
    valid_BS = torch.ones(2, 40, dtype=torch.bool)
    valid_BS[0, :9] = False
    position_BS = (valid_BS.cumsum(1) - 1).clamp(min=0)
    expected = theirs(TOKENS_BS, attention_mask=valid_BS.long(), position_ids=position_BS).logits
    ours = decoder.logits(decoder(TOKENS_BS, valid_BS=valid_BS).hidden_BSD)
    torch.testing.assert_close(ours[valid_BS], expected[valid_BS], atol=2e-5, rtol=2e-5)
