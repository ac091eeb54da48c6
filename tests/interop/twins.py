"""Small models of transformers with random weights, a family each, and some families in more than one shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

SHAPE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 59,
}
LATENT = {
    **SHAPE,
    "num_key_value_heads": 4,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 7,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

CONFIGS: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: transformers.MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
    "mixtral with a window": lambda: transformers.MixtralConfig(
        **SHAPE, num_local_experts=4, num_experts_per_tok=2, sliding_window=7, head_dim=10, tie_word_embeddings=True
    ),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **SHAPE,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=28,
        num_experts=6,
        num_experts_per_tok=2,
        mlp_only_layers=[1],
    ),
    "qwen2_moe with a window": lambda: transformers.Qwen2MoeConfig(
        **SHAPE,
        moe_intermediate_size=20,
        shared_expert_intermediate_size=28,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        qkv_bias=False,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=2,
    ),
    "qwen3_moe with a window": lambda: transformers.Qwen3MoeConfig(
        **SHAPE,
        moe_intermediate_size=20,
        num_experts=6,
        num_experts_per_tok=3,
        use_sliding_window=True,
        sliding_window=5,
    ),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **SHAPE,
        head_dim=16,
        moe_intermediate_size=20,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        decoder_sparse_step=2,
        attention_bias=True,
        rope_parameters=YARN,
    ),
    "olmoe": lambda: transformers.OlmoeConfig(**SHAPE, num_experts=6, num_experts_per_tok=3, attention_bias=True),
    "deepseek_v2": lambda: transformers.DeepseekV2Config(
        **LATENT,
        q_lora_rank=12,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
        routed_scaling_factor=4.0,
        attention_bias=True,
        rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    ),
    "deepseek_v2 lite": lambda: transformers.DeepseekV2Config(**LATENT, q_lora_rank=None),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(
        **LATENT,
        q_lora_rank=12,
        n_group=4,
        topk_group=2,
        rope_parameters={**YARN, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.8},
    ),
    "deepseek_v3 without groups": lambda: transformers.DeepseekV3Config(
        **LATENT, q_lora_rank=12, n_group=1, topk_group=1, norm_topk_prob=False
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **SHAPE,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=6,
        swiglu_limit=1.5,
        rope_parameters=YARN | {"truncate": False},
    ),
    "granitemoe": lambda: transformers.GraniteMoeConfig(
        **SHAPE,
        num_local_experts=4,
        num_experts_per_tok=2,
        attention_multiplier=0.21,
        embedding_multiplier=3.0,
        residual_multiplier=0.22,
        logits_scaling=4.9,
        tie_word_embeddings=True,
    ),
    "llama": lambda: transformers.LlamaConfig(**SHAPE, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True),
    "llama stretched": lambda: transformers.LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    ),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=5),
    "qwen2": lambda: transformers.Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=1, tie_word_embeddings=True
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=16),
}
"""What to call it -> the config; the first word is the family."""


@torch.no_grad()
def twin(name: str, seed: int = 0) -> Any:
    """The model, in evaluation mode; weights of norms are around 1, all others, biases too, are random."""
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        tensor.copy_(1 + 0.3 * noise if "norm" in key else 0.2 * noise)
    return model


def save(model: Any, folder: Path, max_shard_size: str = "5GB") -> Path:
    """As the hub has it."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def prompts() -> torch.Tensor:
    """(B, S) token ids."""
    return torch.randint(59, (2, 30), generator=torch.Generator().manual_seed(1))
