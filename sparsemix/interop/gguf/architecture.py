"""Which of llama.cpp's architectures a decoder is, and what the code of each takes for granted."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from sparsemix.models import DecoderConfig, LatentAttentionConfig

Shared = Literal["none", "plain", "gated"]


class Architecture(NamedTuple):
    """What llama.cpp's code of one architecture does whatever the file says, and what it reads from the file."""

    name: str
    """As files say it."""
    pairs: Literal["halves", "neighbours"] = "halves"
    """Which rows of a head the rotary embedding turns together: those half a head apart, as ours, or adjacent ones."""
    normalize: bool | None = None
    """Whether a token's weights are divided by their sum; None: the file says it, or there is no mixture."""
    shared: tuple[Shared, ...] = ("none",)
    """Which shared experts it knows beside the routed ones."""
    dense_first: bool = False
    """Whether blocks at the start may be dense in a model with mixtures."""
    square: bool = False
    """Whether the heads together must be as wide as the model."""
    output_bias: bool = False
    """Whether attention's output may have a bias; queries, keys and values may everywhere."""
    tied: bool = True
    """Whether the unembedding may be left out of the file."""
    ropes: tuple[str, ...] = ("linear", "yarn")
    """Which stretched rotary embeddings it knows."""
    scaled: bool = False
    """Whether it multiplies embeddings, residuals, attention and logits by constants of the file."""
    routed_scale: bool = False
    """Whether it multiplies the routed experts' output by a constant of the file."""


LLAMA = Architecture("llama", pairs="neighbours", normalize=True, output_bias=True, ropes=("linear", "yarn", "llama3"))
QWEN2 = Architecture("qwen2", square=True)
QWEN2_MOE = Architecture("qwen2moe", normalize=False, shared=("gated",), square=True, tied=False)
QWEN3 = Architecture("qwen3")
QWEN3_MOE = Architecture("qwen3moe", normalize=True)
OLMOE = Architecture("olmoe", normalize=False, square=True, tied=False)
GPT_OSS = Architecture("gpt-oss", normalize=True, output_bias=True, tied=False)
GRANITE = Architecture("granite", pairs="neighbours", output_bias=True, ropes=("linear", "yarn", "llama3"), scaled=True)
GRANITE_MOE = Architecture(
    "granitemoe",
    pairs="neighbours",
    normalize=True,
    shared=("none", "plain"),
    output_bias=True,
    ropes=("linear", "yarn", "llama3"),
    scaled=True,
)
DEEPSEEK = Architecture(
    "deepseek",
    pairs="neighbours",
    normalize=False,
    shared=("plain",),
    dense_first=True,
    square=True,
    routed_scale=True,
)
DEEPSEEK2 = Architecture(
    "deepseek2", pairs="neighbours", shared=("plain",), dense_first=True, ropes=("yarn",), routed_scale=True
)


def nearest(config: DecoderConfig) -> Architecture:
    """The only architecture that may express this decoder; `check_expressible` says whether it does."""
    attention, moe = config.attention, config.moe
    if isinstance(attention, LatentAttentionConfig):
        return DEEPSEEK2
    if attention.sinks:
        return GPT_OSS
    if attention.qk_norm == "width":
        return OLMOE
    if attention.qk_norm == "head":
        return QWEN3 if moe is None else QWEN3_MOE
    if is_scaled(config):
        return GRANITE if moe is None else GRANITE_MOE
    if moe is None:
        return QWEN2 if attention.bias == "qkv" else LLAMA
    return {"none": LLAMA, "plain": DEEPSEEK, "gated": QWEN2_MOE}[shared_kind(config)]


def is_scaled(config: DecoderConfig) -> bool:
    """Whether constants multiply embeddings, residuals, logits or, in place of 1/sqrt(A), the attention's."""
    scales = (config.embedding_scale, config.residual_scale, config.logit_scale)
    return any(scale != 1.0 for scale in scales) or not scores_as_usual(config)


def scores_as_usual(config: DecoderConfig) -> bool:
    """Whether attention's scores are divided by the root of the head size, A."""
    scale = config.attention.scale
    return scale is None or math.isclose(scale, config.attention.head_size(config.dim) ** -0.5)


def shared_kind(config: DecoderConfig) -> Shared:
    """What is beside the routed experts."""
    if config.moe is None or config.moe.shared is None:
        return "none"
    return "gated" if config.moe.shared_gate else "plain"
