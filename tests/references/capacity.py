"""How many places an expert has, by each source's rule, and who gets them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from references.edges import Edge

Choices = Sequence[Sequence[int]]


def served(
    choices: Choices,
    num_experts: int,
    limit: int,
    priority: str,
    weight: Callable[[int, int], float],
    valid: Sequence[bool],
) -> set[tuple[int, int]]:
    """The edges (token, rank of the choice) that an expert with `limit` places takes, asked one by one."""
    edges = [(t, j) for t in range(len(choices)) for j in range(len(choices[t])) if valid[t]]
    if priority == "position":
        edges.sort(key=lambda edge: (edge[1], edge[0]))  # all first choices before any second choice
    else:
        edges.sort(key=lambda edge: (-weight(*edge), edge[0], edge[1]))
    taken, kept = [0] * num_experts, set()
    for t, j in edges:
        if taken[choices[t][j]] < limit:
            taken[choices[t][j]] += 1
            kept.add((t, j))
    return kept


# --- who: edges of a token come best first; each function puts them in the order in which they are asked --------------


def first_come(edges: Iterable[Edge], limit: int) -> list[Edge]:
    """Keeps the first `limit` edges of each expert."""
    asked: Counter[int] = Counter()
    answered = []
    for edge in edges:
        answered.append(edge._replace(kept=asked[edge.expert] < limit))
        asked[edge.expert] += 1
    return answered


def ranked(edges: Iterable[Edge]) -> list[tuple[int, Edge]]:
    """Each edge with its rank among the choices of its token."""
    seen: Counter[int] = Counter()
    found = []
    for edge in edges:
        found.append((seen[edge.token], edge))
        seen[edge.token] += 1
    return found


def by_position(edges: Iterable[Edge]) -> list[Edge]:
    """All first choices in token order, then all second ones, ..."""
    return [edge for _, edge in sorted(ranked(edges), key=lambda pair: (pair[0], pair[1].token))]


def by_weight(edges: Iterable[Edge]) -> list[Edge]:
    """Largest weight first, whatever the rank (Megatron's "probs")."""
    order = sorted(ranked(edges), key=lambda pair: (-pair[1].weight.item(), pair[1].token, pair[0]))
    return [edge for _, edge in order]


def by_batch_priority(edges: Iterable[Edge]) -> list[Edge]:
    """V-MoE: tokens by their largest gate, yet still all first choices before any second one."""
    pairs = ranked(edges)
    largest = {edge.token: edge.weight.item() for rank, edge in pairs if rank == 0}
    return [edge for _, edge in sorted(pairs, key=lambda pair: (pair[0], -largest[pair[1].token], pair[1].token))]


# --- how many ---------------------------------------------------------------------------------------------------------


def switch_capacity(num_tokens: int, num_experts: int, factor: float) -> float:
    """Switch's formula, which leaves the rounding open and k out (k = 1)."""
    return num_tokens / num_experts * factor


def mesh_capacity(group_size: int, num_experts: int, factor: float) -> int:
    """Mesh TensorFlow: rounded down, at most the group, at least 4; k is not included."""
    return max(min(group_size, int(group_size * factor / num_experts)), 4)


def flaxformer_capacity(group_size: int, num_experts: int, factor: float) -> int:
    """Flaxformer: rounded to the nearest, at least 4; k is not included."""
    return max(round(factor * group_size / num_experts), 4)


def vmoe_capacity(num_tokens: int, k: int, num_experts: int, factor: float) -> int:
    """V-MoE: k included, rounded up, and up again to a multiple of 4."""
    return math.ceil(math.ceil(num_tokens * k * factor / num_experts) / 4) * 4


def megatron_capacity(num_tokens: int, k: int, num_experts: int, factor: float) -> int:
    """Megatron: k included, rounded up."""
    return math.ceil(num_tokens * k / num_experts * factor)


def megablocks_capacity(num_tokens: int, k: int, num_experts: int, factor: float) -> int:
    """MegaBlocks: k included, rounded down."""
    return int(factor * k * num_tokens / num_experts)


def moe_plus_plus_capacity(num_tokens: int, num_ffn: int, num_zero: int, tau: float, factor: float) -> tuple[int, int]:
    """MoE++: (of an FFN expert, of a cheap one): g tau T and g T over tau N_f + N_z, rounded down; k left out."""
    share = factor * num_tokens / (tau * num_ffn + num_zero)
    return int(tau * share), int(share)
