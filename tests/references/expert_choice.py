"""Each expert chooses its tokens: expert choice, the softmax over tokens, and token rounding.

They look at the whole batch, so they are not causal; `edges.apart` keeps padding and other sequences out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from references.batchwise import softmax_rows
from references.edges import Edge, ranking
from references.gates import softmax
from references.token_choice import softmax_top_k


def expert_choice(logits_TE: Tensor, num_chosen: int) -> list[Edge]:
    """Softmax over experts; each expert takes the `num_chosen` tokens with its largest p, weighted by p.

    num_chosen = T c / E for c experts a token on average; all tokens where that is more than T.
    """
    probs_TE = softmax_rows(logits_TE)
    return [Edge(t, e, probs_TE[t, e]) for e in range(probs_TE.shape[1]) for t in ranking(probs_TE[:, e])[:num_chosen]]


def over_tokens(logits_TE: Tensor) -> Tensor:
    """Each expert's softmax over the tokens, (T, E)."""
    return torch.stack([softmax(logits_T) for logits_T in logits_TE.unbind(1)], dim=1) if len(logits_TE) else logits_TE


def expert_choice_over_tokens(logits_TE: Tensor, num_chosen: int) -> list[Edge]:
    """Mesh TensorFlow's form: softmax over tokens, and weights divided by the number of experts that take the token."""
    gates_TE = over_tokens(logits_TE)
    taken = [(t, e) for e in range(gates_TE.shape[1]) for t in ranking(gates_TE[:, e])[:num_chosen]]
    takers = [sum(token == t for token, _ in taken) for t in range(len(gates_TE))]
    return [Edge(t, e, gates_TE[t, e] / takers[t]) for t, e in taken]


def token_uniformity_loss(logits_TE: Tensor) -> Tensor:
    """T sum_t A_t^2 with A_t the mean over experts of the softmax over tokens: 1 where all tokens are wanted alike.

    T where all experts want one token only. Source: Mesh TensorFlow's loss of that form.
    """
    num_tokens, num_experts = logits_TE.shape
    wanted = [sum(row) / num_experts for row in over_tokens(logits_TE)]
    return num_tokens * sum((a**2 for a in wanted), logits_TE.new_zeros(()))


# --- token rounding (SonicMoE) ----------------------------------------------------------------------------------------


def rounded(count: int, tile: int, mode: Literal["nearest", "up", "down"]) -> int:
    """The multiple of `tile`; a half goes to the even multiple."""
    return {"nearest": round(count / tile), "up": -(-count // tile), "down": count // tile}[mode] * tile


def token_rounding(
    logits_TE: Tensor, k: int, tile: int, mode: Literal["nearest", "up", "down"] = "nearest", normalize: bool = True
) -> list[Edge]:
    """Top k, and then each expert's count is rounded to a multiple of `tile`, at most T.

    An expert drops its own tokens with the lowest weight first, or takes others with the largest p first. Its own
    are ordered by p / sum of the token's top k, which is also their weight (raw p without `normalize`); those added
    have their raw p. Edges come by expert.
    """
    probs_TE = softmax_rows(logits_TE)
    chosen = {(edge.token, edge.expert): edge.weight for edge in softmax_top_k(logits_TE, k, normalize=True)}
    edges = []
    for e in range(probs_TE.shape[1]):
        preference = [chosen[t, e].item() if (t, e) in chosen else p - 1 for t, p in enumerate(probs_TE[:, e].tolist())]
        count = sum((t, e) in chosen for t in range(len(probs_TE)))
        for t in ranking(preference)[: rounded(count, tile, mode)]:
            edges.append(Edge(t, e, chosen.get((t, e), probs_TE[t, e]) if normalize else probs_TE[t, e]))
    return edges
