"""Logits equal to those of transformers' models with the same weights, family by family."""

import pytest
import torch

from benchmarks.mixtral import our_name
from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig, YarnConfig
from sparsemix.routers import TopKRouterConfig

transformers = pytest.importorskip("transformers")

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "eos_token_id": None,
    "bos_token_id": None,
}


BEYOND_MIXTRAL = (
    ("self_attn.q_norm", "attention.query_norm"),
    ("self_attn.k_norm", "attention.key_norm"),
    ("mlp.shared_expert_gate", "ffn.shared_gate"),
    ("mlp.shared_expert.down_proj.weight", "ffn.shared.down_DF"),
    ("mlp.shared_expert.gate_proj", "ffn.shared.gate"),
    ("mlp.shared_expert.up_proj", "ffn.shared.up"),
)


def our_weights(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename transformers' parameters to ours."""
    renamed = {}
    for name, tensor in theirs.items():
        name = our_name(name)
        for old, new in BEYOND_MIXTRAL:
            name = name.replace(old, new)
        renamed[name] = tensor
    for name in [name for name in renamed if name.endswith("shared.gate.weight")]:
        prefix = name.removesuffix("gate.weight")
        gate_up = [renamed.pop(f"{prefix}gate.weight"), renamed.pop(f"{prefix}up.weight")]
        renamed[f"{prefix}gate_up_FD"] = torch.cat(gate_up)
    return renamed


def mixtral():
    theirs = transformers.MixtralConfig(
        **SHAPE,
        intermediate_size=24,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, rope_theta=1e6)
    router = TopKRouterConfig(k=2, gate="topk_softmax")
    moe = MoEConfig(num_experts=4, router=router, experts=GLUExpertsConfig(hidden=24))
    return transformers.MixtralForCausalLM(theirs), attention, moe


def olmoe():
    theirs = transformers.OlmoeConfig(**SHAPE, intermediate_size=24, num_experts=6, num_experts_per_tok=3)
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, qk_norm="width")
    router = TopKRouterConfig(k=3, normalize=False)
    moe = MoEConfig(num_experts=6, router=router, experts=GLUExpertsConfig(hidden=24))
    return transformers.OlmoeForCausalLM(theirs), attention, moe


def qwen3():
    theirs = transformers.Qwen3MoeConfig(
        **SHAPE,
        head_dim=16,
        moe_intermediate_size=20,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    )
    yarn = YarnConfig(factor=4, original_context=16)
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, qk_norm="head", rope_scaling=yarn)
    moe = MoEConfig(num_experts=6, router=TopKRouterConfig(k=2), experts=GLUExpertsConfig(hidden=20))
    return transformers.Qwen3MoeForCausalLM(theirs), attention, moe


def qwen2():
    theirs = transformers.Qwen2MoeConfig(
        **SHAPE,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=28,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=False,
        qkv_bias=True,
    )
    attention = AttentionConfig(num_heads=4, num_kv_heads=2, bias="qkv")
    moe = MoEConfig(
        num_experts=6,
        router=TopKRouterConfig(k=2, normalize=False),
        experts=GLUExpertsConfig(hidden=20),
        shared=GLUExpertsConfig(hidden=28),
        shared_gate=True,
    )
    return transformers.Qwen2MoeForCausalLM(theirs), attention, moe


@pytest.mark.parametrize("family", [mixtral, olmoe, qwen3, qwen2])
def test_logits_equal_those_of_transformers(family):
    theirs, attention, moe = family()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.2 * noise)
    decoder = DecoderConfig(
        vocab_size=60, dim=32, num_layers=3, context=64, attention=attention, moe=moe, norm_eps=1e-6
    ).build()
    decoder.load_state_dict(our_weights(theirs.state_dict()))
    tokens_BS = torch.randint(60, (2, 40), generator=generator)
    with torch.no_grad():
        ours = decoder.logits(decoder(tokens_BS).hidden_BSD)
        expected = theirs.eval()(tokens_BS).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
