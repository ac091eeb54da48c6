"""The layer of this library as a contestant, and the shape and the tokens that all contestants share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsemix import GLUExpertsConfig, MoE, MoEConfig, Routing, TopKRouterConfig, moe_forward
from sparsemix.kernels import BackendName


class LayerShape(NamedTuple):
    """Of a layer and its tokens."""

    tokens: int
    dim: int
    hidden: int
    """Of one expert."""
    experts: int
    k: int

    @property
    def flops(self) -> int:
        """Of the experts' three products, forward; backward has twice as many."""
        return 6 * self.tokens * self.k * self.dim * self.hidden

    @property
    def router_flops(self) -> int:
        """Of the router's product, forward."""
        return 2 * self.tokens * self.dim * self.experts

    @property
    def weight_bytes(self) -> int:
        """Of all experts, in float32."""
        return 12 * self.experts * self.dim * self.hidden

    def __str__(self) -> str:
        return f"T={self.tokens} d={self.dim} F={self.hidden} E={self.experts} k={self.k}"


class Contestant(NamedTuple):
    """A layer, and how it is called."""

    layer: nn.Module
    apply: Callable[[Tensor], Tensor]
    """x (T, D) to y (T, D)."""

    def train_step(self, x_TD: Tensor, dy_TD: Tensor) -> None:
        """Forward and backward, with gradients to the input and to every parameter, into fresh memory."""
        self.layer.zero_grad()
        x_TD.grad = None
        self.apply(x_TD).backward(dy_TD)

    def results(self, x_TD: Tensor, dy_TD: Tensor) -> list[Tensor]:
        """y and the gradients of x and of each parameter, by which it is checked that all compute the same."""
        self.layer.zero_grad()
        x_TD.grad = None
        y_TD = self.apply(x_TD)
        y_TD.backward(dy_TD)
        assert x_TD.grad is not None
        found = [y_TD.detach(), x_TD.grad, *(p.grad for p in self.layer.parameters() if p.grad is not None)]
        self.layer.zero_grad()
        return found


def tokens(shape: LayerShape) -> tuple[Tensor, Tensor]:
    """x with gradient, and the gradient of y."""
    generator = torch.Generator().manual_seed(0)
    x_TD, dy_TD = torch.randn(2, shape.tokens, shape.dim, generator=generator).unbind()
    return x_TD.clone().requires_grad_(), dy_TD.clone()


def our_moe(shape: LayerShape, backend: BackendName = "auto") -> MoE:
    """The layer of this library; with k = 1 the weight is the probability, as the router needs a gradient."""
    return MoEConfig(
        num_experts=shape.experts,
        router=TopKRouterConfig(k=shape.k, normalize=shape.k > 1),
        experts=GLUExpertsConfig(hidden=shape.hidden, backend=backend),
    ).build(shape.dim)


def our_layer(moe: MoE) -> Contestant:
    """The whole layer, router included."""
    return Contestant(moe, lambda x_TD: moe(x_TD)[0])


def our_experts(moe: MoE, routing: Routing) -> Contestant:
    """Sorting, experts and combine, for a routing that is known."""
    assert isinstance(moe.experts, nn.Module)
    return Contestant(moe.experts, lambda x_TD: moe_forward(x_TD, routing, moe.experts)[0])


def all_to_one_expert(num_tokens: int) -> Routing:
    """What turns a mixture of one expert into a dense FFN: every token to expert 0, with weight 1."""
    return Routing(
        token_N=torch.arange(num_tokens),
        expert_N=torch.zeros(num_tokens, dtype=torch.int64),
        weight_N=torch.ones(num_tokens),
        edges_per_token=1,
    )
