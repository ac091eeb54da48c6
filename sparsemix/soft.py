"""Soft MoE: each expert slot takes a mean of all tokens, and each token a mean of all slots. No edges, no choice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.checks import check, check_dim
from sparsemix.config import config
from sparsemix.experts import Experts, ExpertsConfig
from sparsemix.routers.base import WideModule, live_edges, wide_dtype
from sparsemix.routers.score import linear_scores
from sparsemix.routing import Dispatch, Routing, TokenInfo, sort_by_expert

EPS = 1e-6
"""Added to squared norms."""


@config
class SoftMoEConfig:
    """Experts with slots that are filled with weighted means of a sequence's tokens. For encoders: not causal."""

    num_experts: int = Field(ge=1)
    """E."""
    slots_per_expert: int = Field(default=1, ge=1)
    """Vectors that an expert computes for each sequence."""
    experts: ExpertsConfig
    """What an expert computes."""

    def build(self, dim: int) -> SoftMoE:
        """The layer over x of width `dim`."""
        experts = self.experts.build(dim, self.num_experts)
        return SoftMoE(SoftRouter(dim, self.num_experts * self.slots_per_expert), experts)


class SoftRouting(NamedTuple):
    """How much of each of S tokens is in each of P slots, and back."""

    dispatch_BSP: Tensor
    """D, float32 or wider: over the tokens of a sequence it sums to 1; 0 for padding."""
    combine_BSP: Tensor
    """C, likewise: over the slots it sums to 1 for each token; 0 for padding."""
    inner: tuple[Routing, ...] = ()
    """routings of mixtures used as experts; balance losses read them."""


class SoftRouter(WideModule):
    """logits = scale x/|x| . phi/|phi|; dispatch = softmax over tokens, combine = softmax over slots.

    Source: Puigcerver et al., 2023 (arXiv 2308.00951); eps as in the authors' code (google-research/vmoe).
    """

    def __init__(self, dim: int, num_slots: int) -> None:
        super().__init__()
        self.weight_PD = nn.Parameter(torch.empty(num_slots, dim, dtype=wide_dtype()))
        self.scale = nn.Parameter(torch.empty((), dtype=wide_dtype()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Directions without preference, since lengths do not matter, and scale 1."""
        nn.init.normal_(self.weight_PD, std=self.weight_PD.shape[1] ** -0.5)
        nn.init.ones_(self.scale)

    def forward(self, x_BSD: Tensor, valid_BS: Tensor | None = None) -> SoftRouting:
        """The weights of each sequence; `valid_BS` is bool, False for padding."""
        check_dim("x", x_BSD, -1, self.weight_PD.shape[1])
        logits_TP = linear_scores(_unit(x_BSD).flatten(0, 1), self.scale * _unit(self.weight_PD))
        logits_BSP = logits_TP.unflatten(0, x_BSD.shape[:2])
        if valid_BS is None:
            return SoftRouting(logits_BSP.softmax(1), logits_BSP.softmax(2))
        # A sequence of nothing but padding has no token to take: finite numbers where -inf would make NaN.
        least = torch.finfo(logits_BSP.dtype).min
        dispatch_BSP = torch.where(valid_BS[..., None], logits_BSP, least).softmax(1)
        return SoftRouting(dispatch_BSP * valid_BS[..., None], logits_BSP.softmax(2) * valid_BS[..., None])


class SoftMoE(nn.Module):
    """y = C f(D^T x): f the experts, each on its own slots of D^T x; D and C those of `SoftRouter`.

    Differentiable everywhere, and nothing to balance. Each token's output depends on all tokens of its sequence.

    >>> import torch
    >>> from sparsemix import GLUExpertsConfig, SoftMoEConfig
    >>> moe = SoftMoEConfig(num_experts=8, experts=GLUExpertsConfig(hidden=32)).build(16)
    >>> y, routing = moe(torch.randn(2, 5, 16))
    >>> y.shape, routing.dispatch_BSP.shape
    (torch.Size([2, 5, 16]), torch.Size([2, 5, 8]))

    Source: Puigcerver et al., 2023 (arXiv 2308.00951).
    """

    if TYPE_CHECKING:  # what `nn.Module` makes of these attributes is wider than what they are
        router: SoftRouter
        experts: Experts

    def __init__(self, router: SoftRouter, experts: Experts) -> None:
        super().__init__()
        num_slots, num_experts = len(router.weight_PD), experts.num_experts
        check(
            num_slots % num_experts == 0,
            "router",
            "must have as many slots for each expert",
            f"{num_slots} slots for {num_experts} experts",
            "build the router with a multiple of the experts",
        )
        self.router, self.experts = router, experts

    def forward(self, x: Tensor, *, info: TokenInfo | None = None) -> tuple[Tensor, SoftRouting]:
        """Apply the layer to each sequence.

        Args:
            x: (..., S, D), one sequence or several.
            info: `valid_T`, one entry a token, keeps padding out of the slots.

        Returns:
            y of the shape of x, in autocast's dtype where that is on, and 0 for padding; the weights, for which
            the leading axes of x are one.
        """
        check(x.ndim >= 2, "x", "must be (..., sequence, dim)", f"shape {tuple(x.shape)}", "add a sequence axis")
        x_BSD = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
        valid_BS = _valid(info, x_BSD)
        if valid_BS is not None:
            x_BSD = torch.where(valid_BS[..., None], x_BSD, 0)  # a weight of 0 would not cure NaN
        routing = self.router(x_BSD, valid_BS)
        slots_BPD = routing.dispatch_BSP.mT.to(x.dtype) @ x_BSD
        slots_RD = slots_BPD.flatten(0, 1)
        y_RD, inner = self.experts(slots_RD, self._dispatch(len(x_BSD), slots_RD))
        y_BPD = y_RD.unflatten(0, slots_BPD.shape[:2])
        y_BSD = routing.combine_BSP.to(y_BPD.dtype) @ y_BPD
        return y_BSD.view(*x.shape[:-1], y_BSD.shape[-1]), routing._replace(inner=inner)

    def _dispatch(self, num_sequences: int, slots_RD: Tensor) -> Dispatch:
        """Slot i of a sequence goes to expert i // slots_per_expert, with weight 1."""
        num_slots, num_experts = len(self.router.weight_PD), self.experts.num_experts
        slot_N = torch.arange(len(slots_RD), device=slots_RD.device)
        routing = Routing(
            token_N=slot_N,
            expert_N=slot_N % num_slots // (num_slots // num_experts),
            weight_N=torch.ones_like(slot_N, dtype=wide_dtype(slots_RD)),
            edges_per_token=1,
        )
        return sort_by_expert(routing, num_experts)


def _unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis, in at least float32, and 0 for 0."""
    x = x.to(wide_dtype(x))
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + EPS)


def _valid(info: TokenInfo | None, x_BSD: Tensor) -> Tensor | None:
    num_tokens = x_BSD.shape[0] * x_BSD.shape[1]
    valid_T = live_edges(info, torch.arange(num_tokens, device=x_BSD.device), num_tokens)
    return None if valid_T is None else valid_T.view(x_BSD.shape[:2])
