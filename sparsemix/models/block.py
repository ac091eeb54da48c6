"""A block of a decoder: attention, then a mixture of experts, a dense layer or nothing, each behind a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.layer import MoE
from sparsemix.models.attention import Attention
from sparsemix.models.cache import KeyMask, LayerCache
from sparsemix.models.depth import Depth
from sparsemix.models.latent_attention import LatentAttention
from sparsemix.models.primitives import RMSNorm
from sparsemix.models.tokens import Tokens
from sparsemix.routers.base import ResidualRouter
from sparsemix.routing import Routing

Collect = Callable[[int, Routing], Any]
"""(layer, routing) -> what the decoder's output shall keep of it. It runs inside the block: under activation
checkpointing a second time, so that it must have no side effect."""


class BlockOutput(NamedTuple):
    """What a block gives."""

    x_BSD: Tensor
    """The residual stream."""
    kept: Any
    """What `collect` keeps of the mixture's routing; None without a mixture."""
    previous: Routing | None
    """What the next mixture may build on: the last routing so far, where routers read it, and otherwise None."""
    depth: Routing | None = None
    """Which tokens went through, where not all do."""


class Block(nn.Module):
    """x + s attention(norm(x)), then x + s ffn(norm(x)), where ffn is a mixture, a dense layer or missing.

    s is `residual_scale`; where `windowed`, attention takes the mask of the window. With a depth, tokens that it does
    not choose pass by, and attention is among the others.
    """

    def __init__(
        self,
        layer: int,
        attention: Attention | LatentAttention,
        ffn: nn.Module | None,
        depth: Depth | None = None,
        *,
        dim: int,
        norm_eps: float,
        residual_scale: float = 1.0,
        windowed: bool = False,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = RMSNorm(dim, norm_eps)
        self.attention = attention
        self.ffn_norm = None if ffn is None else RMSNorm(dim, norm_eps)
        self.ffn = ffn
        self.depth = depth
        self.residual_scale = residual_scale
        self.windowed = windowed
        self.hands_on = isinstance(ffn, MoE) and isinstance(ffn.router, ResidualRouter) and ffn.router.reads_previous
        check(
            depth is None or not self.hands_on,
            "depth",
            "not together with a router that builds on the routing below, which needs every token",
            f"both in block {layer}",
            "use another router, or a depth in dense blocks only",
        )

    def forward(
        self,
        x_BSD: Tensor,
        tokens: Tokens,
        cache: LayerCache | None = None,
        previous: Routing | None = None,
        collect: Collect | None = None,
    ) -> BlockOutput:
        """Apply attention and the feed-forward layer.

        Args:
            x_BSD: the residual stream.
            tokens: what is known of them.
            cache: the tokens before these; it receives these.
            previous: the routing of the mixture below, of the same tokens.
            collect: what to keep of the mixture's routing; None: the routing itself.
        """
        if self.depth is None:
            return self._compute(x_BSD, tokens, cache, previous, collect)
        chosen = self.depth(x_BSD, tokens, cache)
        output = self._compute(chosen.x_BCD, chosen.tokens, cache, previous, collect)
        return output._replace(x_BSD=chosen.put_back(x_BSD, output.x_BSD), depth=chosen.routing)

    def new_cache(self, batch_size: int, max_length: int) -> LayerCache:
        """An empty cache of this layer."""
        cache = self.attention.new_cache(batch_size, max_length)
        if self.depth is not None:
            cache.own_mask = KeyMask(batch_size, max_length, cache.kept[0].device)
        return cache

    def _compute(
        self,
        x_BSD: Tensor,
        tokens: Tokens,
        cache: LayerCache | None,
        previous: Routing | None,
        collect: Collect | None,
    ) -> BlockOutput:
        mask = tokens.window_mask if self.windowed else tokens.mask
        x_BSD = self._add(x_BSD, self.attention(self.attention_norm(x_BSD), tokens.rotary, mask, cache))
        if self.ffn_norm is None or self.ffn is None:
            return BlockOutput(x_BSD, None, previous)
        normed_BSD = self.ffn_norm(x_BSD)
        if not isinstance(self.ffn, MoE):
            return BlockOutput(self._add(x_BSD, self.ffn(normed_BSD)), None, previous)
        y_BSD, routing = self.ffn(normed_BSD, info=tokens.info, previous=previous)
        kept = routing if collect is None else collect(self.layer, routing)
        # Mixtures of a decoder are alike: if this router reads no routing below it, no router above reads this one.
        # Under checkpointing, what a block is given stays until backward: then better nothing.
        return BlockOutput(self._add(x_BSD, y_BSD), kept, routing if self.hands_on else None)

    def _add(self, x_BSD: Tensor, y_BSD: Tensor) -> Tensor:
        return x_BSD + y_BSD if self.residual_scale == 1 else x_BSD + self.residual_scale * y_BSD
