"""Sizes and situations that go wrong in mixtures, for hypothesis to choose from; a layer; and comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from sparsemix import Dispatch, GLUExpertsConfig, MoE, MoEConfig, Routing, sort_by_expert

ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "identity", "cubic"]
DIM = 3
"""The width of most layers."""
GATES = ["softmax_topk", "topk_softmax", "sigmoid"]


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Zero where an input takes no part, which a loop over tokens leaves out of the graph and a layer must not."""
    if not loss.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    found = torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, found)]


def same(actual: Tensor, expected: Tensor, what: str = "value", tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance, msg=lambda text: f"{what}: {text}")


@st.composite
def edge_lists(draw: st.DrawFn) -> tuple[Routing, int, int]:
    """Any routing at all, ragged or k a token, with its number of tokens and experts; experts may stay empty."""
    num_tokens, num_experts = draw(st.integers(0, 7)), draw(st.integers(1, 9))
    expert = st.integers(0, num_experts - 1)
    k = draw(st.none() | st.integers(1, num_experts))
    if k is None and num_tokens:
        edges = draw(st.lists(st.tuples(st.integers(0, num_tokens - 1), expert), max_size=20))
    else:
        one_expert = draw(st.none() | expert)  # all tokens to one expert
        choice = expert if one_expert is None else st.just(one_expert)
        edges = [(t, draw(choice)) for t in range(num_tokens) for _ in range(k or 1)]
    live = draw(st.none() | st.lists(st.booleans(), min_size=len(edges), max_size=len(edges)))
    routing = Routing(
        token_N=torch.tensor([t for t, _ in edges], dtype=torch.int64),
        expert_N=torch.tensor([e for _, e in edges], dtype=torch.int64),
        weight_N=numbers(draw(st.integers(0, 99)), len(edges)).requires_grad_(),
        live_N=None if live is None else torch.tensor(live, dtype=torch.bool),
        edges_per_token=k,
    )
    return routing, num_tokens, num_experts


def dispatch_of(token: list[int], expert: list[int], num_experts: int, k: int | None = None) -> Dispatch:
    """The dispatch of edges with weights 1, 2, 3, ..."""
    weight_N = torch.arange(1.0, len(token) + 1, dtype=torch.float64)
    edges = Routing(torch.tensor(token), torch.tensor(expert), weight_N, edges_per_token=k)
    return sort_by_expert(edges, num_experts)


def layer_of(num_experts: int, dim: int = DIM, dtype=torch.float64, **fields) -> MoE:
    """A layer all of whose parameters are of size 1, biases too."""
    fields = {"experts": GLUExpertsConfig(hidden=4), **fields}
    moe = MoEConfig(num_experts=num_experts, **fields).build(dim).to(dtype)
    with torch.no_grad():
        for i, parameter in enumerate(moe.parameters()):
            parameter.copy_(numbers(i, *parameter.shape))
    return moe
