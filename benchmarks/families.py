"""Every family of transformers whose experts can be replaced, and a tiny model of each from its own config."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

TINY: dict[str, Any] = {
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "intermediate_size": 24,
    "moe_intermediate_size": 20,
    "dense_intermediate_size": 24,
    "shared_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "num_experts": 6,
    "num_local_experts": 6,
    "n_routed_experts": 6,
    "moe_num_experts": 6,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "top_k_experts": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "swiglu_limit": 1.0,
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "o_lora_rank": 8,
    "o_groups": 2,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "index_n_heads": 4,
    "index_head_dim": 16,
    "rotary_dim": 8,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
}
"""What any config that has such a field says, whatever its family."""
OWN: dict[str, dict[str, Any]] = {
    "beam": {"mlp_layer_types": ["dense", "sparse"]},
    "deepseek_ocr2": {"mlp_layer_types": ["dense", "sparse"]},
    "ernie4_5_vl_moe": {
        "moe_intermediate_size": [20, 12],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    },
    "flint": {"mlp_only_layers": [0]},
    "gemma4": {"enable_moe_block": True, "vocab_size_per_layer_input": 60, "hidden_size_per_layer_input": 8},
    "glm4v_moe": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 0]}},
    "glm5_next": {"qk_rope_head_dim": 0, "head_dim": 0, "mlp_layer_types": ["dense", "sparse"]},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "inkling": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 8},
    "inkling2": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mimo_v2_flash": {"head_dim": 12, "num_key_value_heads": 2},
    "muse_spark": {"moe_hidden_size": 28},
    "qwen3_omni_moe": {"shared_expert_intermediate_size": 16},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family says beside or instead of that. Zaya's config takes one expert a token and no more."""
MODELS = {
    "Qwen3OmniMoeThinkerTextExperts": "Qwen3OmniMoeThinkerTextModel",
    "Qwen3OmniMoeTalkerTextExperts": "Qwen3OmniMoeTalkerModel",
}
"""Which model has which experts, where a family has several kinds."""


class Family(NamedTuple):
    """A class of experts under transformers' `use_experts_implementation`."""

    name: str
    """Of the folder of its modelling file."""
    experts: str
    """The class."""

    @property
    def module(self) -> Any:
        """The modelling file, imported."""
        return importlib.import_module(f"transformers.models.{self.name}.modeling_{self.name}")

    @property
    def model(self) -> Any:
        """The smallest model class that contains them: without a head, and of text alone if there is such a one."""
        if self.experts in MODELS:
            return getattr(self.module, MODELS[self.experts])
        names = [
            name for name, kind in inspect.getmembers(self.module, inspect.isclass) if hasattr(kind, "config_class")
        ]
        names = [name for name in names if name.endswith("Model") and not name.endswith("PreTrainedModel")]
        own = [name for name in names if name.endswith("TextModel") and "_VL_" not in name] or names
        assert len(own) == 1, f"{self.name}: which of {own}?"
        return getattr(self.module, own[0])

    def tiny(self) -> nn.Module:
        """Two layers or so, of its own config; in evaluation, where there is no noise."""
        kind = self.model.config_class
        known = {name: value for name, value in TINY.items() if name in inspect.signature(kind).parameters}
        return self.model(kind(**{**known, **OWN.get(self.name, {})})).eval()

    def inputs(self, model: Any, token_BS: Tensor) -> dict[str, Tensor]:
        """What the model takes of these tokens: themselves, if it has an embedding of its own."""
        if hasattr(model, "embed_tokens"):
            return {"input_ids": token_BS}
        return {"inputs_embeds": model.get_input_embeddings()(token_BS)}

    def mixtures(self, model: nn.Module) -> list[nn.Module]:
        """The modules of these experts in a model."""
        return [module for module in model.modules() if type(module).__name__ == self.experts]


def families() -> list[Family]:
    """Those of the installed transformers, by name; nothing of it is imported."""
    spec = importlib.util.find_spec("transformers")
    return [] if spec is None or spec.origin is None else list(_found(Path(spec.origin).parent / "models"))


def _found(models: Path) -> Iterator[Family]:
    for path in sorted(models.glob("*/modeling_*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for line, following in pairwise(lines):
            if line.startswith("@use_experts_implementation"):
                yield Family(path.parent.name, following.removeprefix("class ").partition("(")[0])
