"""What llama.cpp cannot compute is refused by name, and nothing is written."""

import dataclasses

import pytest
import torch
from interop.gguf_cases import FFN, NORMALIZED, PLAIN, SCALES, TWINS, decoder, grouped, latent, twin

from sparsemix.experts import ClampedGLUExpertsConfig, GLUExpertsConfig, MLPExpertsConfig
from sparsemix.interop.gguf import write_gguf
from sparsemix.models import DepthConfig, LinearRopeConfig, Llama3RopeConfig, WindowConfig, YarnConfig
from sparsemix.routers import (
    CapacityConfig,
    GroupLimitedRouterConfig,
    HashRouterConfig,
    SelectionBiasConfig,
    TopKRouterConfig,
)
from sparsemix.tensors import Held

HEAD = grouped(qk_norm="head")


def mixture(**changes):
    return decoder(HEAD, moe=dataclasses.replace(NORMALIZED, **changes))


def changed(name, **changes):
    return dataclasses.replace(TWINS[name], **changes)


def deepseek(**changes):
    config = TWINS["deepseek2: V2"]
    return dataclasses.replace(config, moe=dataclasses.replace(config.moe, **changes))


GROUPS = {"k": 3, "num_groups": 4, "keep_groups": 2}
FIVE = ClampedGLUExpertsConfig(hidden=32, limit=5)
SHARED = GLUExpertsConfig(hidden=32)
REFUSED = {
    "depth": (changed("qwen3", depth=DepthConfig()), "depth: no such thing in llama.cpp's qwen3"),
    "dense blocks among others": (decoder(HEAD, moe=NORMALIZED, ffn=FFN, moe_every=2), "moe: no block may be dense"),
    "a dense block in the middle": (changed("deepseek", dense_layers=(2,)), "moe: only blocks at the start"),
    "a block without": (decoder(HEAD, ffn=FFN, without_ffn=(1,)), "without_ffn: every block has one"),
    "attention alone": (decoder(HEAD), "ffn: must be glu"),
    "an ffn with gelu": (decoder(HEAD, ffn=GLUExpertsConfig(hidden=96, activation="gelu")), "ffn: must be glu"),
    "a plain ffn": (decoder(HEAD, ffn=MLPExpertsConfig(hidden=96)), "ffn: must be glu"),
    "a window": (changed("llama", window=WindowConfig(size=8)), "window: no sliding window"),
    "gpt-oss without": (changed("gpt-oss", window=None), "window: must be given"),
    "scales": (changed("qwen3", **SCALES), "model: scales of embedding"),
    "scales of latent attention": (changed("deepseek2: V2", **SCALES), "model: no scales"),
    "a scale of attention": (
        changed("olmoe", attention=grouped(num_kv_heads=4, qk_norm="width", scale=1.0)),
        "model: scales of embedding",
    ),
    "Llama 3's rope elsewhere": (
        changed("qwen3", attention=grouped(qk_norm="head", rope_scaling=Llama3RopeConfig())),
        "attention.rope_scaling: must be one of linear, yarn, or none, in llama.cpp's qwen3, got llama3",
    ),
    "a linear rope of latent attention": (
        changed("deepseek2: V2", attention=latent(rope_scaling=LinearRopeConfig(factor=2))),
        "attention.rope_scaling: must be one of yarn",
    ),
    "a rope of latent attention stretched by nothing": (
        changed("deepseek2: V2", attention=latent(rope_scaling=YarnConfig(factor=1, original_context=32))),
        "attention.rope_scaling.factor: must be above 1",
    ),
    "wide heads": (
        changed("qwen2moe", attention=grouped(bias="qkv", head_dim=32)),
        "attention.head_dim: heads must be together as wide as the model, 64,",
    ),
    "grouped heads with a norm of their width": (
        changed("olmoe", attention=grouped(qk_norm="width")),
        "attention.num_kv_heads: must be 4",
    ),
    "sinks without biases": (changed("gpt-oss", attention=grouped(sinks=True)), "attention.bias: must be 'qkvo'"),
    "sinks with a norm": (
        changed("gpt-oss", attention=grouped(sinks=True, bias="qkvo", qk_norm="head")),
        "attention.qk_norm: must be none in llama.cpp's gpt-oss, got head",
    ),
    "a bias of the output": (
        changed("qwen3", attention=grouped(qk_norm="head", bias="qkvo")),
        "attention.bias: the output must have none in llama.cpp's qwen3",
    ),
    "sinks without a mixture": (changed("gpt-oss", moe=None, ffn=FFN), "moe: must be given in llama.cpp's gpt-oss"),
    "a query rank at V2-Lite's depth": (
        changed("deepseek2: V3", num_layers=27),
        "attention.q_rank: must be none with 27 blocks",
    ),
    "a scale of latent attention": (changed("deepseek2: V2", attention=latent(scale=0.3)), "attention.scale: must be"),
    "a latent bias": (changed("deepseek2: V2", attention=latent(bias=True)), "attention.bias: must be False"),
    "norms of their own": (changed("deepseek2: V2", attention=latent(norm_eps=1e-3)), "attention.norm_eps: must be"),
    "dense latent attention": (decoder(latent(), ffn=FFN), "moe: must be given"),
    "no shared expert": (deepseek(shared=None), "moe.shared: must be plain"),
    "an odd shared expert": (
        deepseek(shared=GLUExpertsConfig(hidden=40)),
        "moe.shared: hidden must be a multiple of the experts' 32",
    ),
    "a shared expert elsewhere": (mixture(shared=SHARED), "moe.shared: must be none"),
    "a scale of the routed": (mixture(routed_scale=2.0), "moe.routed_scale: must be 1"),
    "gelu": (mixture(experts=GLUExpertsConfig(hidden=32, activation="gelu")), "moe.experts: must be glu"),
    "biases": (mixture(experts=GLUExpertsConfig(hidden=32, bias=True)), "moe.experts: must be glu"),
    "another clamp": (
        changed("gpt-oss", moe=dataclasses.replace(TWINS["gpt-oss"].moe, experts=FIVE)),
        "moe.experts: must be clamped_glu",
    ),
    "another router": (mixture(router=HashRouterConfig(vocab_size=160)), "moe.router: must be topk, or group_limited"),
    "capacity": (
        dataclasses.replace(
            mixture(router=TopKRouterConfig(capacity=CapacityConfig(factor_eval=2.0))), allow_leak=True
        ),
        "moe.router.capacity: no factor_eval",
    ),
    "weights that do not sum to 1": (
        mixture(router=PLAIN.router),
        "moe.router.normalize: must be True in llama.cpp's qwen3moe, got False",
    ),
    "a sigmoid": (mixture(router=TopKRouterConfig(gate="sigmoid")), "moe.router.gate: must be softmax_topk"),
    "a selection bias": (
        mixture(router=TopKRouterConfig(selection_bias=SelectionBiasConfig())),
        "moe.router.selection_bias: must be none",
    ),
    "a multiplied selection bias": (
        deepseek(router=TopKRouterConfig(selection_bias=SelectionBiasConfig(form="multiplicative"))),
        "moe.router.selection_bias.form: must be 'additive'",
    ),
    "a router's bias": (mixture(router=TopKRouterConfig(bias=True)), "moe.router.bias: must be False"),
    "groups": (
        mixture(router=GroupLimitedRouterConfig(**GROUPS, gate="softmax_topk", selection_bias=None)),
        "moe.router.keep_groups: must be all",
    ),
    "groups by their best": (
        deepseek(router=GroupLimitedRouterConfig(**GROUPS, group_score="best")),
        "moe.router.group_score: groups must compete by the sum",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name_with_nothing_written(name, tmp_path):
    config, message = REFUSED[name]
    with torch.device("meta"):
        tensors = Held(config.build().state_dict())
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        write_gguf(twin(TWINS["llama"])._replace(config=config, tensors=tensors), tmp_path / "new" / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_groups_that_all_are_kept_are_none(tmp_path):
    router = GroupLimitedRouterConfig(k=2, num_groups=4, keep_groups=4, gate="softmax_topk", selection_bias=None)
    write_gguf(twin(mixture(router=router)), tmp_path / "model.gguf")


def test_a_window_as_long_as_the_context_is_none(tmp_path):
    write_gguf(twin(changed("llama", window=WindowConfig(size=128))), tmp_path / "model.gguf")


def test_a_file_that_exists_stays(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_text("mine")
    with pytest.raises(ValueError, match="out: must be a new file"):
        write_gguf(twin(TWINS["llama"]), path)
    assert path.read_text() == "mine"


def test_a_tensor_without_a_place_is_named(tmp_path):
    model = twin(TWINS["qwen3moe"])
    more = Held(model.tensors.tensors | {"blocks.0.ffn.experts.scale_E": torch.ones(8)})
    with pytest.raises(ValueError, match=r"blocks\.0\.ffn\.experts\.scale_E: must have a place"):
        write_gguf(model._replace(tensors=more), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_is_missing_is_named(tmp_path):
    model = twin(TWINS["qwen3moe"])
    del model.tensors.tensors["blocks.1.ffn.experts.down_EDF"]
    with pytest.raises(ValueError, match=r"blocks\.1\.ffn\.experts\.down_EDF: must be there"):
        write_gguf(model._replace(tensors=Held(model.tensors.tensors)), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "dtype"), [(1e6, "float16"), (1e9, "q8_0"), (torch.nan, "float32")])
def test_numbers_that_the_type_cannot_hold_are_named_and_nothing_is_left(value, dtype, tmp_path):
    model = twin(TWINS["qwen3moe"])
    model.tensors.tensors["blocks.2.ffn.experts.down_EDF"][3, 1, 2] = value
    with pytest.raises(ValueError, match=r"blk\.2\.ffn_down_exps\.weight: must fit"):
        write_gguf(model, tmp_path / "new" / "model.gguf", dtype)
    assert list(tmp_path.iterdir()) == []
