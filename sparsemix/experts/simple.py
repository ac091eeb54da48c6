"""Experts that cost next to nothing: zero (or null), copy and constant. None loops over its experts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sparsemix.config import config
from sparsemix.experts.base import autocast, check_keeps_width, check_vectors, init_fan_in, live_weights
from sparsemix.kernels import combine, expert_of_row, linear, nobody_differentiates
from sparsemix.routing import Dispatch, Routing


@config
class ZeroExpertsConfig:
    """y = 0: a token that chooses one saves the work of an expert.

    Source: zero experts of MoE++ (2410.07348), null experts of AdaMoE (2406.13233).
    """

    type: Literal["zero"] = "zero"

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> ZeroExperts:
        """E experts over x of any width."""
        return ZeroExperts(num_experts, dim if out_dim is None else out_dim)


@config
class CopyExpertsConfig:
    """y = x: a token that chooses one skips the layer. Source: MoE++ (2410.07348)."""

    type: Literal["copy"] = "copy"

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> CopyExperts:
        """E experts over x of width `dim`."""
        check_keeps_width("copy", dim, out_dim)
        return CopyExperts(num_experts)


@config
class ConstantExpertsConfig:
    """y = a x + b v with [a, b] = softmax(W_c x), v and W_c of the expert. Source: MoE++ (2410.07348)."""

    type: Literal["constant"] = "constant"

    def build(self, dim: int, num_experts: int, out_dim: int | None = None) -> ConstantExperts:
        """E experts over x of width `dim`."""
        check_keeps_width("constant", dim, out_dim)
        return ConstantExperts(dim, num_experts)


class ZeroExperts(nn.Module):
    """E experts that give 0."""

    def __init__(self, num_experts: int, out_dim: int) -> None:
        super().__init__()
        self.num_experts, self.out_dim = num_experts, out_dim

    def forward(self, x: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Zeros (T, ..., out_dim), and no inner routings."""
        return self._zeros(x), ()

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor:
        """Zeros (1, out_dim)."""
        return self._zeros(x_1D)

    def _zeros(self, x: Tensor) -> Tensor:
        return autocast(x.device, x.new_zeros(*x.shape[:-1], self.out_dim))


class CopyExperts(nn.Module):
    """E experts that give back what they get."""

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts

    def forward(self, x: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """x times the sum of its live weights, and no inner routings."""
        x = autocast(x.device, x)
        weight_T1 = combine(live_weights(dispatch)[:, None], dispatch, len(x))
        return x * weight_T1.view(-1, *[1] * (x.ndim - 1)).to(x.dtype), ()

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor:
        """x times the sum of its live weights."""
        x_1D = autocast(x_1D.device, x_1D)
        weight_N, live_N = routing.weight_N, routing.live_N
        return x_1D * (weight_N if live_N is None else torch.where(live_N, weight_N, 0)).sum().to(x_1D.dtype)


class ConstantExperts(nn.Module):
    """E experts that mix what they get with a vector of their own.

    Every token's shares are computed for every such expert, 2 E D multiply-adds: these experts are few.
    """

    def __init__(self, dim: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.share_E2D = nn.Parameter(torch.empty(num_experts, 2, dim))
        self.constant_E1D = nn.Parameter(torch.empty(num_experts, 1, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fan-in normal."""
        init_fan_in(self)

    def forward(self, x_TD: Tensor, dispatch: Dispatch) -> tuple[Tensor, tuple[Routing, ...]]:
        """Weighted sums (T, D), and no inner routings."""
        check_vectors(x_TD)
        x_TD = autocast(x_TD.device, x_TD)
        expert_N, weight_N = expert_of_row(dispatch), live_weights(dispatch)
        logits_TE2 = linear(x_TD, self.share_E2D.flatten(0, 1)).unflatten(1, (-1, 2))
        pair_N = dispatch.token_N * self.num_experts + expert_N
        logits_N2 = logits_TE2.flatten(0, 1).index_select(0, pair_N)
        share_N2 = weight_N[:, None] * logits_N2.to(weight_N.dtype).softmax(-1)
        own_NE = expert_N[:, None] == torch.arange(self.num_experts, device=expert_N.device)
        # Column 0: what the token's rows together take of x; the others: what each takes of its constant.
        rows = torch.cat([share_N2[:, :1], torch.where(own_NE, share_N2[:, 1:], 0)], dim=1)
        sums = combine(rows, dispatch, len(x_TD)).to(x_TD.dtype)
        return sums[:, :1] * x_TD + linear(sums[:, 1:], self.constant_E1D.flatten(0, 1).T), ()

    def one_token(self, x_1D: Tensor, routing: Routing) -> Tensor | None:
        """The weighted sum of one token where nobody wants a gradient, by its own experts alone; else None."""
        if not nobody_differentiates(x_1D):
            return None
        live = slice(None) if routing.live_N is None else routing.live_N
        expert_N, weight_N = routing.expert_N[live], routing.weight_N[live]
        logits_N2 = (self.share_E2D[expert_N] @ x_1D[0]).to(weight_N.dtype)
        share_N2 = (weight_N[:, None] * logits_N2.softmax(-1)).to(x_1D.dtype)
        return share_N2[:, 0].sum() * x_1D + share_N2[:, 1:].T @ self.constant_E1D[expert_N, 0]
