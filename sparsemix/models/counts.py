"""Exact counts of parameters and of floating point operations, found in two ways that agree.

Active parameters are those that a token's forward reads: of E routed experts k count, and both embeddings do; a block
that a share of the tokens go through, as in training a mixture of depths, counts by that share. Where experts differ, a
token visits each of them equally often on average. Counts are rounded.
FLOPs are those of a forward pass for one token, 2 for each multiply-add in a matrix product: projections,
routers, k experts, the unembedding, and attention over `context` keys, not halved for causality. Norms,
activations, biases, sinks and the embedding's look-up are not counted; with latent attention, keys and values are
made of the narrow vectors once, as in training. Training takes 3 times as many.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import torch
from torch import nn

from sparsemix.experts import (
    ClampedGLUExpertsConfig,
    ConcatExpertsConfig,
    ConstantExpertsConfig,
    CopyExpertsConfig,
    DenseConfig,
    ExpertsConfig,
    GLUExpertsConfig,
    MLPExpertsConfig,
    TiedExperts,
    TiedExpertsConfig,
    ZeroExpertsConfig,
)
from sparsemix.layer import MoE, MoEConfig, MoEExpertsConfig
from sparsemix.models.block import Block
from sparsemix.models.decoder import Decoder, DecoderConfig
from sparsemix.models.depth import DepthConfig
from sparsemix.models.tally import Tally, attended_width, attention_tally, kept_width, matrix, routed, vector


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a model is and costs; the conventions are those of this file."""

    parameters_total: int
    parameters_active: int
    parameters_embedding: int
    """The matrix that embeds tokens, V * D; an untied unembedding has as many again."""
    flops_per_token: int
    """Forward, with `context` keys to attend to."""
    kv_values_per_token: int
    """Numbers that the key-value cache holds for each token."""
    context: int

    @property
    def training_flops_per_token(self) -> int:
        """Forward, and twice that for backward."""
        return 3 * self.flops_per_token


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the counts of a decoder depend on; also for a model that `Decoder` cannot be."""

    vocab_size: int
    dim: int
    tied: bool
    blocks: Tally
    """All blocks, and the final norm."""
    attended_width: int | Fraction
    """Multiply-adds for each key attended to: the sum over layers and heads of key size and value size."""
    kv_values: int
    """Numbers in the key-value cache for each token."""
    windowed_width: int = 0
    """The same sum as `attended_width` for layers that attend to the last `window` keys only."""
    window: int = 0

    def counts(self, context: int) -> Counts:
        """The counts where a token attends to `context` keys."""
        embedding = self.vocab_size * self.dim
        embeddings = embedding if self.tied else 2 * embedding
        attended = self.attended_width * context + self.windowed_width * min(context, self.window)
        return Counts(
            parameters_total=self.blocks.total + embeddings,
            parameters_active=round(self.blocks.active + embeddings),
            parameters_embedding=embedding,
            flops_per_token=round(2 * (self.blocks.multiply_adds + embedding + attended)),
            kv_values_per_token=self.kv_values,
            context=context,
        )


def count_by_formula(config: DecoderConfig, context: int | None = None) -> Counts:
    """The counts by arithmetic on the config; `context` defaults to the config's own.

    Raises:
        ValueError: experts that are modules of the user: there is no formula for them.
    """
    return shape_of(config).counts(config.context if context is None else context)


def count_by_tensors(config: DecoderConfig, context: int | None = None) -> Counts:
    """The counts by `numel` over the model's parameters, built on the meta device."""
    with torch.device("meta"):
        decoder = config.build()
    share = _active_share(decoder)
    active = multiply_adds = Fraction(0)
    kept = [one.numel() for block in decoder.blocks for one in block.new_cache(1, 1).kept]
    for name, parameter in decoder.named_parameters():
        part = parameter.numel() * share.get(name, Fraction(1))
        active += part
        looked_up = name == "embedding.weight" and not config.tie_embeddings
        if parameter.ndim > 1 and "bias" not in name and not looked_up:
            multiply_adds += part
    context = config.context if context is None else context
    attended = sum(_attended(block, config, context) for block in decoder.blocks)
    return Counts(
        parameters_total=sum(parameter.numel() for parameter in decoder.parameters()),
        parameters_active=round(active),
        parameters_embedding=decoder.embedding.weight.numel(),
        flops_per_token=round(2 * (multiply_adds + attended)),
        kv_values_per_token=sum(kept),
        context=context,
    )


def shape_of(config: DecoderConfig) -> Shape:
    """The decoder's shape, from its config."""
    attention, layers = config.attention, config.num_layers
    lists = (config.moe_layers, config.without_ffn, config.depth_layers)
    alike: dict[tuple[bool, ...], list[int]] = defaultdict(list)
    for layer in range(layers):
        alike[tuple(layer in one for one in lists)].append(layer)
    blocks = [len(group) * block_tally(config, group[0]) for group in alike.values()]
    width, windowed = attended_width(attention, config.dim), len(config.windowed_layers)
    everywhere = layers - windowed - len(config.depth_layers) * (1 - _share(config) ** 2)  # fewer queries, fewer keys
    return Shape(
        vocab_size=config.vocab_size,
        dim=config.dim,
        tied=config.tie_embeddings,
        blocks=sum(blocks, vector(config.dim)),
        attended_width=everywhere * width,
        kv_values=layers * kept_width(attention, config.dim),
        windowed_width=windowed * width,
        window=0 if config.window is None else config.window.size,
    )


def block_tally(config: DecoderConfig, layer: int) -> Tally:
    """One block, with its norms."""
    norm = vector(config.dim)
    tally = norm + attention_tally(config.attention, config.dim)
    if config.moe is not None and layer in config.moe_layers:
        tally += norm + moe_tally(config.moe, config.dim)
    elif config.ffn is not None and layer not in config.without_ffn:
        tally += norm + ffn_tally(config.ffn, config.dim)
    if config.depth is not None and layer in config.depth_layers:
        return routed(tally, 1, _share(config)) + depth_tally(config.depth, config.dim)
    return tally


def depth_tally(config: DepthConfig, dim: int) -> Tally:
    """The router of a mixture of depths, which all tokens see, and its predictor."""
    if config.predictor == "router":
        return matrix(1, dim)
    hidden = config.predictor_hidden
    return matrix(1, dim) + matrix(hidden, dim) + matrix(1, hidden) + vector(hidden + 1)


def ffn_tally(config: DenseConfig | ExpertsConfig | MoEExpertsConfig, dim: int) -> Tally:
    """One dense feed-forward layer, or one expert."""
    match config:
        case GLUExpertsConfig() | ClampedGLUExpertsConfig():
            biases = vector(2 * config.hidden + dim) if config.bias else Tally()
            return 3 * matrix(config.hidden, dim) + biases
        case MLPExpertsConfig():
            biases = vector(config.hidden + dim) if config.bias else Tally()
            return 2 * matrix(config.hidden, dim) + biases
        case ZeroExpertsConfig() | CopyExpertsConfig():
            return Tally()
        case ConstantExpertsConfig():
            return 3 * matrix(1, dim)
        case MoEExpertsConfig():
            return moe_tally(config.moe, dim)
        case _:
            seen = type(config).__name__
            raise ValueError(f"experts: must be of a kind that has a formula, got {seen}; count by tensors")


def experts_tally(config: ExpertsConfig | MoEExpertsConfig, dim: int, num_experts: int, active: Fraction) -> Tally:
    """All routed experts, of which a token visits so many on average, each as often as any other."""
    if isinstance(config, TiedExpertsConfig):
        return routed(ffn_tally(config.experts, dim), config.num_distinct, active)
    if not isinstance(config, ConcatExpertsConfig):
        return routed(ffn_tally(config, dim), num_experts, active)
    every = sum((part.num_experts * ffn_tally(part.experts, dim) for part in config.parts), Tally())
    share = active / num_experts
    return Tally(every.total, share * every.active, share * every.multiply_adds)


def moe_tally(config: MoEConfig, dim: int) -> Tally:
    """One mixture: router, experts, and the shared expert with its gate."""
    active = Fraction(config.router.edges_per_token(config.num_experts))
    tally = router_tally(config, dim) + experts_tally(config.experts, dim, config.num_experts, active)
    if config.shared is not None:
        tally += ffn_tally(config.shared, dim)
    if config.shared_gate:
        tally += matrix(1, dim)
    return tally


def router_tally(config: MoEConfig, dim: int) -> Tally:
    """A router: all that it holds, and a product for each matrix."""
    with torch.device("meta"):
        router = config.router.build(dim, config.num_experts)
    assert isinstance(router, nn.Module)
    tallies = [Tally(p.numel(), p.numel(), p.numel() * (p.ndim > 1)) for p in router.parameters()]
    return sum(tallies, Tally())


def _attended(block: Block, config: DecoderConfig, context: int) -> Fraction:
    """Multiply-adds of a token's scores and of what they weigh."""
    rows = {name: parameter.shape[0] for name, parameter in block.attention.named_parameters()}
    width = rows.get("query.weight", rows.get("query_up.weight", 0)) + block.attention.output.weight.shape[1]
    keys = min(context, config.window.size) if block.windowed and config.window is not None else context
    return width * keys * (Fraction(1) if block.depth is None else _share(config) ** 2)


def _active_share(decoder: Decoder) -> dict[str, Fraction]:
    """Name of each parameter that not every token reads -> the share of those that do.

    That is k / E, multiplied where mixtures lie in mixtures, and a depth's capacity.
    """
    shares: dict[str, Fraction] = {}
    for prefix, module in decoder.named_modules():
        if isinstance(module, MoE):
            edges = Fraction(cast(Any, module.router).config.edges_per_token(module.router.num_experts))
            experts = module.experts
            share = edges / (experts.num_distinct if isinstance(experts, TiedExperts) else experts.num_experts)
            for name, _ in module.get_submodule("experts").named_parameters(f"{prefix}.experts"):
                shares[name] = share * shares.get(name, Fraction(1))
    for layer in decoder.config.depth_layers:
        for leaf, _ in decoder.blocks[layer].named_parameters():
            if not leaf.startswith("depth."):
                name = f"blocks.{layer}.{leaf}"
                shares[name] = shares.get(name, Fraction(1)) * _share(decoder.config)
    return shares


def _share(config: DecoderConfig) -> Fraction:
    """Of the tokens that go through the blocks with a depth."""
    return Fraction(1 if config.depth is None else config.depth.capacity).limit_denominator(10**6)
