"""A router for items that are not vectors, such as sequences and images: it routes each by its mean."""

from __future__ import annotations

from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.routers.base import Router, wide_dtype
from sparsemix.routing import Routing, TokenInfo


class PooledRouter(nn.Module):
    """Another router, over the mean of each item (T, *item) over all its axes but that of the features."""

    def __init__(self, router: Router, feature_axis: int = -1) -> None:
        """feature_axis: which axis of an item is as wide as the router: the last of (S, D), 0 of (C, H, W)."""
        super().__init__()
        self.router, self.feature_axis = router, feature_axis

    @property
    def num_experts(self) -> int:
        """E."""
        return self.router.num_experts

    @property
    def causal(self) -> bool:
        """False: an item is routed by all of its parts, the later ones too."""
        return False

    def forward(self, x: Tensor, info: TokenInfo | None = None, previous: Routing | None = None) -> Routing:
        """Route T items; `info` has an entry an item. The mean is taken in at least float32.

        Raises:
            ValueError: x is of vectors, which need no mean.
        """
        check(
            x.ndim > 2, "x", "items must have two axes or more", f"shape {tuple(x.shape)}", "set item_dims of the layer"
        )
        axis = self.feature_axis + (1 if self.feature_axis >= 0 else x.ndim)
        pooled_axes = [other for other in range(1, x.ndim) if other != axis]
        return self.router(x.mean(pooled_axes, dtype=wide_dtype(x)), info, previous)

    def statistic(self, routing: Routing) -> Tensor | None:
        """That of the router inside."""
        return self.router.statistic(routing)

    def update(self, total: Tensor) -> None:
        """Adapt the router inside."""
        self.router.update(total)
