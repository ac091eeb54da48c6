"""The language model: a decoder whose feed-forward layers are mixtures of experts, all or some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, cast

from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts import DenseConfig
from sparsemix.kernels import at_least_float32, linear
from sparsemix.layer import MoE, MoEConfig
from sparsemix.models.attention import AttentionConfig
from sparsemix.models.block import Block, BlockOutput, Collect
from sparsemix.models.cache import KeyMask, KVCache
from sparsemix.models.depth import DepthConfig
from sparsemix.models.init import InitConfig, initialize
from sparsemix.models.latent_attention import LatentAttentionConfig
from sparsemix.models.masks import WindowConfig
from sparsemix.models.primitives import Linear, RMSNorm
from sparsemix.models.tokens import Tokens, place, token_info
from sparsemix.routing import Routing
from sparsemix.soft import SoftMoE


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
    attention: Annotated[AttentionConfig | LatentAttentionConfig, Field(discriminator="type")]
    """The attention of every block."""
    window: WindowConfig | None = None
    """Let tokens see only those just before them, in all blocks or some; None: all before them."""
    moe: MoEConfig | None = None
    """The mixture of experts; None: all blocks are dense."""
    ffn: DenseConfig | None = None
    """The feed-forward layer of dense blocks; without a mixture too, None: blocks are attention alone."""
    moe_every: int = Field(default=1, ge=1)
    """Every so many-th block has the mixture (the last of each group), the others are dense."""
    dense_first: int = Field(default=0, ge=0)
    """So many blocks at the start are dense, before `moe_every` begins to count."""
    dense_layers: tuple[int, ...] = ()
    """Further blocks that are dense, counted from 0."""
    without_ffn: tuple[int, ...] = ()
    """Blocks of attention alone, counted from 0."""
    depth: DepthConfig | None = None
    """Let only some of the tokens through some of the blocks; None: all through all."""
    allow_leak: bool = False
    """Take a mixture whose router is not causal: what is predicted then depends on what comes after it."""
    tie_embeddings: bool = False
    """The unembedding is the embedding."""
    embedding_scale: float = Field(default=1.0, gt=0)
    """Multiplies the embedding's output (Granite)."""
    residual_scale: float = Field(default=1.0, gt=0)
    """Multiplies what attention and feed-forward layers add to the residual stream (Granite)."""
    logit_scale: float = Field(default=1.0, gt=0)
    """Multiplies the logits (Granite: the inverse of its logits_scaling)."""
    norm_eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square in norms."""
    init: InitConfig = InitConfig()
    """The initialisation."""

    def __post_init__(self) -> None:
        self.attention.head_size(self.dim)  # refuses here, not only when built
        self._check_layers()
        dense = self.num_layers - len({*self.moe_layers, *self.without_ffn})
        check(
            self.ffn is not None or self.moe is None or dense == 0,
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
        layers = range(self.dense_first + self.moe_every - 1, self.num_layers, self.moe_every)
        return tuple(layer for layer in layers if layer not in {*self.dense_layers, *self.without_ffn})

    @property
    def windowed_layers(self) -> tuple[int, ...]:
        """The blocks that have a window."""
        if self.window is None:
            return ()
        return tuple(sorted({*(range(self.num_layers) if self.window.layers is None else self.window.layers)}))

    @property
    def depth_layers(self) -> tuple[int, ...]:
        """The blocks that only some of the tokens go through."""
        return () if self.depth is None else tuple(range(self.depth.every - 1, self.num_layers, self.depth.every))

    def block(self, layer: int) -> Block:
        """The block number `layer`, counted from 0."""
        attention, ffn = self.attention.build(self.dim, self.norm_eps), None
        if self.moe is not None and layer in self.moe_layers:
            ffn = self.moe.build(self.dim)
        elif self.ffn is not None and layer not in self.without_ffn:
            ffn = self.ffn.build_dense(self.dim)
        depth = self.depth.build(self.dim) if self.depth is not None and layer in self.depth_layers else None
        return Block(
            layer,
            attention,
            ffn,
            depth,
            dim=self.dim,
            norm_eps=self.norm_eps,
            residual_scale=self.residual_scale,
            windowed=layer in self.windowed_layers,
        )

    def build(self, seed: int = 0) -> Decoder:
        """The decoder, initialised from `seed`; under `torch.device("meta")`, its shapes only.

        Raises:
            ValueError: a router is not causal, and `allow_leak` is not set.
        """
        decoder = Decoder(self)
        initialize(decoder, self.init, seed)
        return decoder

    def _check_layers(self) -> None:
        windows = None if self.window is None else self.window.layers
        lists = {"dense_layers": self.dense_layers, "without_ffn": self.without_ffn, "window.layers": windows or ()}
        for name, layers in lists.items():
            there = all(0 <= layer < self.num_layers for layer in layers)
            check(there, name, f"must be in 0..{self.num_layers - 1}, the blocks there are", layers, "correct them")
        for layer in self.depth_layers:
            rule = "not together with a depth, which leaves gaps between the tokens of a block"
            free = layer not in self.windowed_layers
            check(free, "window", rule, f"both in block {layer}", "give window.layers without it")


class DecoderOutput(NamedTuple):
    """What a forward pass gives."""

    hidden_BSD: Tensor
    """after the last norm, times `logit_scale`; `Decoder.logits` makes logits of it."""
    collected: tuple[Any, ...]
    """collect(layer, routing) of each block with a mixture, in order."""
    depth: tuple[Routing, ...] = ()
    """which tokens went through each block of a mixture of depths, in order; in training, `loss` is to be added."""


class Decoder(nn.Module):
    """Embedding, blocks, final norm; unembedding is apart, so that a loss can go chunk by chunk."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        blocks = nn.ModuleList(config.block(layer) for layer in range(config.num_layers))
        self.blocks = cast("Sequence[Block]", blocks)
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.unembedding: nn.Linear | None = None
        if not config.tie_embeddings:
            self.unembedding = Linear(config.dim, config.vocab_size, bias=False)
        if not config.allow_leak:
            _check_causal(self)

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
            The hidden states, what was collected, and which tokens went through the blocks with a depth.

        Raises:
            ValueError: tokens that are not (B, S), more of them than the context or the cache holds, or
                documents together with a cache.
        """
        self._check(tokens_BS, document_BS, cache)
        config = self.config
        window = None if config.window is None else config.window.size
        position, mask, window_mask = place(tokens_BS, position_BS, document_BS, valid_BS, cache, window)
        x_BSD = _scaled(self.embedding(tokens_BS), config.embedding_scale)
        rotary = config.attention.rotary(position, config.dim, at_least_float32(x_BSD.dtype))
        tokens = Tokens(rotary, mask, window_mask, token_info(tokens_BS, position, valid_BS), document_BS)
        collected, depths, previous = [], [], None
        for block in self.blocks:
            arguments = (x_BSD, tokens, None if cache is None else cache.layers[block.layer], previous, collect)
            if activation_checkpointing:
                output = cast("BlockOutput", checkpoint(block, *arguments, use_reentrant=False))
            else:
                output = block(*arguments)
            x_BSD, kept, previous, depth = output
            collected += [kept] if isinstance(block.ffn, MoE) else []
            depths += [] if depth is None else [depth]
        hidden_BSD = _scaled(self.norm(x_BSD), config.logit_scale)
        return DecoderOutput(hidden_BSD, tuple(collected), tuple(depths))

    @property
    def unembed_VD(self) -> Tensor:
        """The unembedding matrix."""
        return self.embedding.weight if self.unembedding is None else self.unembedding.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Unembed hidden states (..., D): (..., V), the same dtype."""
        return linear(hidden, self.embedding.weight) if self.unembedding is None else self.unembedding(hidden)

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty key-value cache for sequences of at most `max_length` tokens, padding included."""
        layers = [block.new_cache(batch_size, max_length) for block in self.blocks]
        return KVCache(layers, KeyMask(batch_size, max_length, self.embedding.weight.device))

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


def _scaled(x_BSD: Tensor, scale: float) -> Tensor:
    return x_BSD if scale == 1 else scale * x_BSD


def _check_causal(decoder: Decoder) -> None:
    """Look at every mixture, those inside experts too."""
    for name, module in decoder.named_modules():
        if isinstance(module, MoE | SoftMoE):
            check(
                isinstance(module, MoE) and module.router.causal,
                "router",
                "must be causal in a decoder, or a later token changes an earlier one's routing",
                f"{type(module.router).__name__} in {name}",
                "use one that is (top-k: without capacity), or set allow_leak=True",
            )
