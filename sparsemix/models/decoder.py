"""The language model: a decoder whose feed-forward layers are mixtures of experts, all or some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts import DenseConfig
from sparsemix.kernels import at_least_float32, linear
from sparsemix.layer import MoE, MoEConfig
from sparsemix.models.attention import AttentionConfig, AttentionMask, attention_mask
from sparsemix.models.cache import KVCache, LayerCache
from sparsemix.models.init import InitConfig, initialize
from sparsemix.models.primitives import RMSNorm
from sparsemix.models.rotary import Rotary
from sparsemix.routing import Routing, TokenInfo

Collect = Callable[[int, Routing], Any]
"""(layer, routing) -> what the decoder's output shall keep of it. It runs inside the block: under activation
checkpointing a second time, so that it must have no side effect."""


@config
class DecoderConfig:
    """A decoder-only transformer: blocks of attention and a feed-forward layer, each behind a norm."""

    vocab_size: int = Field(ge=1)
    """V, the number of tokens the model knows."""
    dim: int = Field(ge=1)
    """D, the width of the model."""
    num_layers: int = Field(ge=1)
    """L, the number of blocks."""
    context: int = Field(ge=1)
    """The most tokens a sequence may have."""
    attention: AttentionConfig
    """The attention of every block."""
    moe: MoEConfig | None = None
    """The mixture of experts; None: all blocks are dense."""
    ffn: DenseConfig | None = None
    """The feed-forward layer of dense blocks."""
    moe_every: int = Field(default=1, ge=1)
    """Every so many-th block has the mixture (the last of each group), the others are dense."""
    dense_first: int = Field(default=0, ge=0)
    """So many blocks at the start are dense, before `moe_every` begins to count."""
    tie_embeddings: bool = False
    """The unembedding is the embedding."""
    norm_eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square in norms."""
    init: InitConfig = InitConfig()
    """The initialisation."""

    def __post_init__(self) -> None:
        self.attention.head_size(self.dim)  # refuses here, not only when built
        dense = self.num_layers - len(self.moe_layers)
        check(
            self.ffn is not None or dense == 0,
            "ffn",
            "must be given where blocks are dense",
            f"none for {dense} of {self.num_layers} blocks",
            "give ffn, or moe for every block",
        )

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """The blocks that have the mixture."""
        if self.moe is None:
            return ()
        return tuple(range(self.dense_first + self.moe_every - 1, self.num_layers, self.moe_every))

    def build(self, seed: int = 0) -> Decoder:
        """The decoder, initialised from `seed`; under `torch.device("meta")`, its shapes only."""
        decoder = Decoder(self)
        initialize(decoder, self.init, seed)
        return decoder


class DecoderOutput(NamedTuple):
    """What a forward pass gives."""

    hidden_BSD: Tensor
    """after the last norm; `Decoder.logits` makes logits of it."""
    collected: tuple[Any, ...]
    """collect(layer, routing) of each block with a mixture, in order."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)), where ffn is a mixture or a dense layer."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = config.attention.build(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        if layer in config.moe_layers:
            assert config.moe is not None
            self.ffn: nn.Module = config.moe.build(config.dim)
        else:
            assert config.ffn is not None
            self.ffn = config.ffn.build_dense(config.dim)

    def forward(
        self,
        x_BSD: Tensor,
        rotary: Rotary,
        mask: AttentionMask,
        info: TokenInfo,
        cache: LayerCache | None,
        collect: Collect | None,
    ) -> tuple[Tensor, Any]:
        """The block's output, and what `collect` keeps of the routing (None for a dense block)."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), rotary, mask, cache)
        normed_BSD = self.ffn_norm(x_BSD)
        if not isinstance(self.ffn, MoE):
            return x_BSD + self.ffn(normed_BSD), None
        y_BSD, routing = self.ffn(normed_BSD, info=info)
        return x_BSD + y_BSD, routing if collect is None else collect(self.layer, routing)


class Decoder(nn.Module):
    """Embedding, blocks, final norm; unembedding is apart, so that a loss can go chunk by chunk."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.blocks = cast("Sequence[Block]", blocks)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.unembedding = None
        if not config.tie_embeddings:
            self.unembedding = nn.Linear(config.dim, config.vocab_size, bias=False)

    def forward(
        self,
        tokens_BS: Tensor,
        *,
        position_BS: Tensor | None = None,
        document_BS: Tensor | None = None,
        valid_BS: Tensor | None = None,
        cache: KVCache | None = None,
        collect: Collect | None = None,
        activation_checkpointing: bool = False,
    ) -> DecoderOutput:
        """Run all blocks.

        Args:
            tokens_BS: int64 token ids.
            position_BS: int64 positions; None: from 0, or from where the cache ends, padding not counted.
            document_BS: int64 ids; attention stays within a document. Not together with a cache.
            valid_BS: bool, False for padding (on the left, where a cache is used): it is attended by none and
                reaches no expert.
            cache: the tokens before these; it receives these.
            collect: what to keep of each routing; None: the routing itself.
            activation_checkpointing: keep only each block's input for backward, and compute the rest again.

        Returns:
            The hidden states, and what was collected.

        Raises:
            ValueError: tokens that are not (B, S), more of them than the context or the cache holds, or
                documents together with a cache.
        """
        self._check(tokens_BS, document_BS, cache)
        position, mask = _place(tokens_BS, position_BS, document_BS, valid_BS, cache)
        x_BSD = self.embedding(tokens_BS)
        rotary = self.config.attention.rotary(position, self.config.dim, at_least_float32(x_BSD.dtype))
        info = _token_info(tokens_BS, position, valid_BS)
        collected = []
        for block in self.blocks:
            layer_cache = None if cache is None else cache.layers[block.layer]
            arguments = (x_BSD, rotary, mask, info, layer_cache, collect)
            if activation_checkpointing:
                x_BSD, kept = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x_BSD, kept = block(*arguments)
            if isinstance(block.ffn, MoE):
                collected.append(kept)
        return DecoderOutput(self.norm(x_BSD), tuple(collected))

    @property
    def unembed_VD(self) -> Tensor:
        """The unembedding matrix."""
        return self.embedding.weight if self.unembedding is None else self.unembedding.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Unembed hidden states (..., D): (..., V), the same dtype."""
        return linear(hidden, self.unembed_VD)

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty key-value cache for sequences of at most `max_length` tokens, padding included."""
        layers = [block.attention.new_cache(batch_size, max_length) for block in self.blocks]
        valid_BS = torch.zeros(batch_size, max_length, dtype=torch.bool, device=self.embedding.weight.device)
        return KVCache(layers, valid_BS)

    def _check(self, tokens_BS: Tensor, document_BS: Tensor | None, cache: KVCache | None) -> None:
        check(tokens_BS.ndim == 2, "tokens_BS", "must be (batch, sequence)", f"shape {tuple(tokens_BS.shape)}")
        length = tokens_BS.shape[1] + (0 if cache is None else cache.length)
        context = self.config.context
        check(
            length <= context,
            "tokens_BS",
            f"at most context={context} tokens",
            length,
            "shorten the sequence",
        )
        apart = document_BS is None or cache is None
        check(
            apart,
            "document_BS",
            "not together with a cache",
            "both",
            "give each document a sequence of its own",
        )


def _place(
    tokens_BS: Tensor,
    position_BS: Tensor | None,
    document_BS: Tensor | None,
    valid_BS: Tensor | None,
    cache: KVCache | None,
) -> tuple[Tensor, AttentionMask]:
    """Positions, (B or 1, S), and what the tokens see. Takes note of them in the cache."""
    num_new, device = tokens_BS.shape[1], tokens_BS.device
    num_keys, key_valid, before_B = num_new, valid_BS, None
    if cache is not None:
        before_B = cache.extend(num_new, valid_BS)
        num_keys, key_valid = cache.length, cache.key_valid_BS
    mask = attention_mask(num_new, num_keys, device, document_BS, key_valid)
    if position_BS is not None:
        return position_BS, mask
    position = torch.arange(num_new, device=device)[None]
    if valid_BS is not None:
        position = (valid_BS.cumsum(dim=1) - 1).clamp(min=0)
    return position if before_B is None else position + before_B[:, None], mask


def _token_info(tokens_BS: Tensor, position: Tensor, valid_BS: Tensor | None) -> TokenInfo:
    sequence_B1 = torch.arange(len(tokens_BS), device=tokens_BS.device)[:, None]
    return TokenInfo(
        valid_T=None if valid_BS is None else valid_BS.flatten(),
        id_T=tokens_BS.flatten(),
        sequence_T=sequence_B1.expand_as(tokens_BS).flatten(),
        position_T=position.expand_as(tokens_BS).flatten(),
    )
