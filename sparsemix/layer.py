"""The mixture-of-experts layer: route, sort by expert, compute, combine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.config import complete, config
from sparsemix.experts import (
    ConcatExperts,
    ConcatExpertsConfig,
    DenseConfig,
    Experts,
    ExpertsConfig,
    ModuleExperts,
    OneTokenExperts,
)
from sparsemix.routers import MoEPPRouterConfig, NullRouterConfig, Router, RouterConfig, TopKRouterConfig
from sparsemix.routers.pooled import PooledRouter
from sparsemix.routing import Routing, TokenInfo, sort_by_expert


def moe_forward(x: Tensor, routing: Routing, experts: Experts) -> tuple[Tensor, Routing]:
    """y_t = sum over the live edges of token t of w f_e(x_t): sort by expert, compute and combine.

    Experts that are `OneTokenExperts` may take a token that is alone without the sort.

    Args:
        x: tokens (T, D), or items with more axes.
        routing: of these.
        experts: where its edges lead.

    Returns:
        (T, D) in the dtype of x, and the routing with the routings of mixtures used as experts attached.
    """
    if len(x) == 1 and x.ndim == 2 and isinstance(experts, OneTokenExperts):
        y = experts.one_token(x, routing)
        if y is not None:
            return y, routing
    y, inner = experts(x, sort_by_expert(routing, experts.num_experts))
    return y, routing._replace(inner=inner)


@config
class MoEExpertsConfig:
    """A whole mixture as an expert, with a router of its own: mixtures of mixtures."""

    type: Literal["moe"] = "moe"
    moe: MoEConfig
    """What each expert is."""

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> ModuleExperts:
        """E mixtures over x of width `dim`; y has that width too, or `out_dim`."""
        out_shape = (*[None] * (self.moe.item_dims - 1), dim if out_dim is None else out_dim)
        return ModuleExperts([self.moe.build(dim, out_dim) for _ in range(num_experts)], out_shape)


@config
class MoEConfig:
    """A router, experts, and perhaps a shared expert that sees every token."""

    num_experts: int = Field(ge=1)
    """E, the routed experts."""
    router: RouterConfig = TopKRouterConfig()
    """Which experts a token goes to, and with what weight."""
    experts: Annotated[ExpertsConfig | MoEExpertsConfig, Field(discriminator="type")]
    """What an expert computes."""
    shared: DenseConfig | None = None
    """An expert that every token goes to, beside the routed ones."""
    shared_gate: bool = False
    """Multiply the shared expert's output by sigmoid(w x) (Qwen2-MoE)."""
    routed_scale: float = 1.0
    """Multiply the routed experts' output (DeepSeek-V3: 2.5)."""
    item_dims: int = Field(1, ge=1)
    """Trailing axes of x that are one item: 2 for sequences (S, D) that go to an expert as a whole, by their mean."""

    def build(self, dim: int, out_dim: int | None = None) -> MoE:
        """The layer over x of width `dim`; y has that width too, or `out_dim`."""
        self._check_last_experts()
        router = self.router.build(dim, self.num_experts)
        return MoE(
            router if self.item_dims == 1 else PooledRouter(router),
            self.experts.build(dim, self.num_experts, out_dim),
            shared=None if self.shared is None else self.shared.build_dense(dim, out_dim),
            shared_gate=nn.Linear(dim, 1, bias=False) if self.shared_gate else None,
            routed_scale=self.routed_scale,
            item_dims=self.item_dims,
        )

    def _check_last_experts(self) -> None:
        """Raise `ValueError` where the router counts on experts that cost next to nothing, and these are others."""
        if not isinstance(self.router, NullRouterConfig | MoEPPRouterConfig):
            return
        kinds = (self.experts.type,) * self.num_experts
        if isinstance(self.experts, ConcatExpertsConfig):
            kinds = tuple(part.experts.type for part in self.experts.parts for _ in range(part.num_experts))
        wanted = self.router.last_experts
        seen = kinds[len(kinds) - len(wanted) :]
        rule = f"the last must be {', '.join(wanted)} with the {self.router.type} router"
        check(seen == wanted, "experts", rule, ", ".join(seen), "use concat, with these as its last parts")


complete(MoEExpertsConfig)


class MoE(nn.Module):
    """y = s sum_e w_e f_e(x) + shared(x), and the routing that led to it.

    >>> import torch
    >>> from sparsemix import GLUExpertsConfig, MoEConfig, balance_loss
    >>> moe = MoEConfig(num_experts=8, experts=GLUExpertsConfig(hidden=32)).build(16)
    >>> y, routing = moe(torch.randn(2, 5, 16))
    >>> y.shape, routing.expert_N.shape
    (torch.Size([2, 5, 16]), torch.Size([20]))
    >>> (y.square().mean() + balance_loss(routing)).backward()
    """

    if TYPE_CHECKING:  # what `nn.Module` makes of these attributes is wider than what they are
        router: Router
        experts: Experts

    def __init__(
        self,
        router: Router,
        experts: Experts,
        *,
        shared: Callable[[Tensor], Tensor] | None = None,
        shared_gate: nn.Linear | None = None,
        routed_scale: float = 1.0,
        item_dims: int = 1,
    ) -> None:
        super().__init__()
        check(
            shared is not None or shared_gate is None,
            "shared_gate",
            "needs a shared expert to gate",
            "shared=None",
            "give `shared` or leave out `shared_gate`",
        )
        self.router, self.experts, self.shared, self.shared_gate = router, experts, shared, shared_gate
        self.routed_scale, self.item_dims = routed_scale, item_dims

    def routers(self) -> list[Router]:
        """This router and those of mixtures used as experts, in the order in which `flatten` gives their routings."""
        return [self.router, *(router for inside in _mixtures_inside(self.experts) for router in inside.routers())]

    def forward(
        self, x: Tensor, *, info: TokenInfo | None = None, previous: Routing | None = None
    ) -> tuple[Tensor, Routing]:
        """Apply the layer.

        Args:
            x: (..., D), or (..., *item) of `item_dims` axes; the leading axes are flattened to T tokens.
            info: what the router may need to know, each field (T,).
            previous: the routing of the MoE layer below, for routers that build on it.

        Returns:
            y of the shape of x, or as wide as the experts make it, in autocast's dtype where that is on; the routing.
            Losses, statistics and reports are functions of the routing.
        """
        items = x.reshape(-1, *x.shape[-self.item_dims :])
        y, routing = moe_forward(items, self.router(items, info, previous), self.experts)
        if self.routed_scale != 1.0:
            y = y * self.routed_scale
        if self.shared is not None:
            y = y + self._gated(items, self.shared(items))
        return y.view(*x.shape[: -self.item_dims], *y.shape[1:]), routing

    def _gated(self, x: Tensor, y: Tensor) -> Tensor:
        return y if self.shared_gate is None else torch.sigmoid(self.shared_gate(x)) * y


def _mixtures_inside(experts: Experts) -> Iterator[MoE]:
    if isinstance(experts, ConcatExperts):
        for part in experts.parts:
            yield from _mixtures_inside(cast("Experts", part))
    elif isinstance(experts, ModuleExperts):
        yield from (one for one in experts.experts if isinstance(one, MoE))
