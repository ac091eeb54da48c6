"""The mixture-of-experts layer: route, sort by expert, compute, combine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts import DenseConfig, Experts, ExpertsConfig, OneTokenExperts
from sparsemix.routers import Router, RouterConfig, TopKRouterConfig
from sparsemix.routing import Routing, TokenInfo, sort_by_expert


def moe_forward(x_TD: Tensor, routing: Routing, experts: Experts) -> tuple[Tensor, Routing]:
    """y_t = sum over the live edges of token t of w f_e(x_t): sort by expert, compute and combine.

    Experts that are `OneTokenExperts` may take a token that is alone without the sort.

    Returns:
        (T, D) in the dtype of x, and the routing with the routings of mixtures used as experts attached.
    """
    if len(x_TD) == 1 and isinstance(experts, OneTokenExperts):
        y_1D = experts.one_token(x_TD, routing)
        if y_1D is not None:
            return y_1D, routing
    y_TD, inner = experts(x_TD, sort_by_expert(routing, experts.num_experts))
    return y_TD, routing._replace(inner=inner)


@config
class MoEConfig:
    """A router, experts, and perhaps a shared expert that sees every token."""

    num_experts: int = Field(ge=1)
    """E, the routed experts."""
    router: RouterConfig = TopKRouterConfig()
    """Which experts a token goes to, and with what weight."""
    experts: ExpertsConfig
    """What an expert computes."""
    shared: DenseConfig | None = None
    """An expert that every token goes to, beside the routed ones."""
    shared_gate: bool = False
    """Multiply the shared expert's output by sigmoid(w x) (Qwen2-MoE)."""
    routed_scale: float = 1.0
    """Multiply the routed experts' output (DeepSeek-V3: 2.5)."""

    def build(self, dim: int) -> MoE:
        """The layer over x of width `dim`."""
        return MoE(
            self.router.build(dim, self.num_experts),
            self.experts.build(dim, self.num_experts),
            shared=None if self.shared is None else self.shared.build_dense(dim),
            shared_gate=nn.Linear(dim, 1, bias=False) if self.shared_gate else None,
            routed_scale=self.routed_scale,
        )


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
        self.routed_scale = routed_scale

    def forward(
        self, x: Tensor, *, info: TokenInfo | None = None, previous: Routing | None = None
    ) -> tuple[Tensor, Routing]:
        """Apply the layer.

        Args:
            x: (..., D); the leading axes are flattened to T tokens.
            info: what the router may need to know, each field (T,).
            previous: the routing of the MoE layer below, for routers that build on it.

        Returns:
            y of the shape of x, in autocast's dtype where that is on; the routing. Losses, statistics and reports
            are functions of the routing.
        """
        x_TD = x.reshape(-1, x.shape[-1])
        y_TD, routing = moe_forward(x_TD, self.router(x_TD, info, previous), self.experts)
        if self.routed_scale != 1.0:
            y_TD = y_TD * self.routed_scale
        if self.shared is not None:
            y_TD = y_TD + self._gated(x_TD, self.shared(x_TD))
        return y_TD.view(*x.shape[:-1], y_TD.shape[-1]), routing

    def _gated(self, x_TD: Tensor, y_TD: Tensor) -> Tensor:
        return y_TD if self.shared_gate is None else torch.sigmoid(F.linear(x_TD, self.shared_gate.weight)) * y_TD
