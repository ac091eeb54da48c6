"""Token choice where experts have few places: GShard's top 2, Switch's top 1, no token left behind.

Each function routes one group of tokens; `edges.apart` routes several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from references.capacity import by_position, first_come
from references.edges import Edge, ranking
from references.gates import softmax

Policy = Callable[[float, float], bool]


def gshard_policy(g2: float, u: float) -> bool:
    """GShard: the second expert is kept with probability min(1, 2 g_2)."""
    return 2 * g2 > u


def mesh_policy(g2: float, u: float, threshold: float = 0.2) -> bool:
    """Mesh TensorFlow's "random": kept with probability min(1, g_2 / threshold)."""
    return u < g2 / threshold


def always(g2: float, u: float) -> bool:
    """Every second expert is asked."""
    return True


def gshard(
    logits_TE: Tensor,
    limit: int,
    uniform_T: Tensor,
    policy: Policy = gshard_policy,
    renormalize: Literal["before", "after"] = "before",
) -> list[Edge]:
    """Top 2 of a softmax; first choices in token order, then those second choices that `policy` lets through.

    A second choice that the policy leaves out has no edge and takes no place. "before": g_1 and g_2 are divided by
    their sum at once, so that a token that loses an expert keeps a weight below 1, and the policy sees the divided
    g_2. "after": the policy sees the raw g_2, and the kept weights sum to 1.
    """
    first, second = [], []
    for t, logits_E in enumerate(logits_TE):
        p_E = softmax(logits_E)
        best = ranking(p_E)[:2]
        total = sum(p_E[e] for e in best) if renormalize == "before" else 1.0
        pair = [Edge(t, e, p_E[e] / total) for e in best]
        first.append(pair[0])
        second += [edge for edge in pair[1:] if policy(edge.weight.item(), uniform_T[t].item())]
    edges = first_come([*first, *second], limit)
    return edges if renormalize == "before" else renormalized(edges)


def renormalized(edges: list[Edge]) -> list[Edge]:
    """Kept weights divided by their sum over the token's kept edges."""
    total: dict[int, Tensor | float] = {}
    for edge in edges:
        if edge.kept:
            total[edge.token] = total.get(edge.token, 0.0) + edge.weight
    return [edge._replace(weight=edge.weight / total[edge.token]) if edge.kept else edge for edge in edges]


def switch(logits_TE: Tensor, limit: int) -> list[Edge]:
    """Top 1 with weight p_i, which is the router's only gradient; places by token order."""
    edges = []
    for t, logits_E in enumerate(logits_TE):
        p_E = softmax(logits_E)
        e = ranking(p_E)[0]
        edges.append(Edge(t, e, p_E[e]))
    return first_come(by_position(edges), limit)


def no_token_left_behind(logits_TE: Tensor, k: int, limit: int) -> list[Edge]:
    """k rounds: every token without an expert asks its next best, while that one has room; weight p of the taker.

    One edge a token. A token that nobody takes in k rounds has its first choice, not kept.
    """
    rows = [softmax(logits_E) for logits_E in logits_TE]
    orders = [ranking(p_E) for p_E in rows]
    room = [limit] * logits_TE.shape[1]
    found: dict[int, int] = {}
    for i in range(k):
        for t, order in enumerate(orders):
            if t not in found and room[order[i]] > 0:
                found[t] = order[i]
                room[order[i]] -= 1
    edges = []
    for t, p_E in enumerate(rows):
        e = found.get(t, orders[t][0])
        edges.append(Edge(t, e, p_E[e], kept=t in found))
    return edges
