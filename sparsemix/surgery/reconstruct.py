"""How well some of the experts of a mixture do without the others: NAEE's error, and searches for the best of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, product

import torch
from torch import Tensor

from sparsemix.checks import check
from sparsemix.routing import Routing
from sparsemix.surgery.columns import router_of
from sparsemix.surgery.outputs import output_products
from sparsemix.surgery.walk import Step

Kept = tuple[int, ...]
"""Experts, in order."""


class Reconstruction:
    """sum over batches of ||Z - Z'||_F, Z being what a mixture gives and Z' what it gives with some experts alone.

    With gates g and g' of a token, (z - z')^2 = sum_ij (g - g')_i <f_i, f_j> (g - g')_j: the products of the experts'
    outputs, T E^2 numbers, are computed once and serve for any set.
    """

    def __init__(self, step: Step) -> None:
        self.router, self.num_experts = step.moe.router, step.moe.experts.num_experts
        self.scale = abs(step.moe.routed_scale)
        self.batches = [
            (mixed.x_TD, gates(mixed.routing, len(mixed.x_TD), range(self.num_experts), self.num_experts), products)
            for mixed in step.mixed
            for products in [output_products(step.moe.experts, mixed.x_TD)]
        ]

    def error(self, kept: Kept) -> float:
        """Of the mixture whose router knows these experts alone."""
        router, total = router_of(self.router, kept), 0.0
        for x_TD, gates_TE, products_TEE in self.batches:
            change_TE = gates_TE - gates(router(x_TD), len(x_TD), kept, self.num_experts)
            squares_T = torch.einsum("ti,tij,tj->t", change_TE, products_TEE, change_TE)
            total += math.sqrt(max(0.0, float(squares_T.sum(dtype=torch.float64))))
        return self.scale * total


def gates(routing: Routing, num_tokens: int, experts: Sequence[int], num_experts: int) -> Tensor:
    """Weights of a routing among these experts as a matrix over all of them, (T, E), 0 where there is no edge."""
    numbers = torch.tensor(list(experts), device=routing.expert_N.device)
    matrix = routing.weight_N.new_zeros(num_tokens, num_experts)
    return matrix.index_put_((routing.token_N, numbers[routing.expert_N]), routing.weight_N, accumulate=True)


def exhaustive(found: Reconstruction, keep: int, num_groups: int, most_sets: int) -> Kept:
    """The best of all sets that have as many experts of each group.

    Raises:
        ValueError: there are more sets than `most_sets`.
    """
    size = found.num_experts // num_groups
    count = math.comb(size, keep // num_groups) ** num_groups
    remedy = "use search='greedy', or allow more"
    check(count <= most_sets, "most_sets", f"must be at least the {count} sets to look at", most_sets, remedy)
    return min(_sets(size, keep // num_groups, num_groups), key=found.error)


def greedy(found: Reconstruction, keep: int) -> Kept:
    """All experts less one at a time, always the one without which the error is the least."""
    kept = tuple(range(found.num_experts))
    while len(kept) > keep:
        kept = min((tuple(e for e in kept if e != gone) for gone in kept), key=found.error)
    return kept


def _sets(size: int, keep: int, num_groups: int) -> Iterator[Kept]:
    groups = [combinations(range(group * size, (group + 1) * size), keep) for group in range(num_groups)]
    return (sum(parts, ()) for parts in product(*groups))
