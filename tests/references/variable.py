"""Routers whose tokens get different amounts of computation: top-p, ReLU, null experts, mixture of depths; Soft MoE."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from references.edges import Edge, ranking
from references.gates import softmax
from references.token_choice import weighted


def top_p(logits_TE: Tensor, p: float) -> list[Edge]:
    """The fewest best experts whose probabilities sum to more than p, the crossing one included; raw softmax weights.

    All experts where the sum never exceeds p.
    """
    edges = []
    for t, logits_E in enumerate(logits_TE):
        probs_E = softmax(logits_E)
        chosen: list[int] = []
        for e in ranking(probs_E):
            if sum(probs_E[i].item() for i in chosen) > p:
                break
            chosen.append(e)
        edges += weighted(t, probs_E, chosen, normalize=False)
    return edges


def relu(logits_TE: Tensor) -> list[Edge]:
    """ReMoE: every expert with a positive logit, which is the weight; perhaps none."""
    return [Edge(t, e, logits_TE[t, e]) for t, row in enumerate(logits_TE.tolist()) for e, z in enumerate(row) if z > 0]


def null_experts(logits_TE: Tensor, k: int, nulls: Sequence[int]) -> list[Edge]:
    """The best k of a softmax over true and null experts; weights sum to 1 over the true ones among them, 0 for nulls.

    A token with nulls only has output 0. AdaMoE; also MoE++'s released code with its zero expert as the null.
    """
    edges = []
    for t, logits_E in enumerate(logits_TE):
        p_E = softmax(logits_E)
        chosen = ranking(p_E)[:k]
        total = sum(p_E[e] for e in chosen if e not in nulls)
        edges += [Edge(t, e, 0 * p_E[e] if e in nulls else p_E[e] / total) for e in chosen]
    return edges


# --- mixture of depths ------------------------------------------------------------------------------------------------


def mixture_of_depths(logits_T: Tensor, num_chosen: int) -> list[Edge]:
    """The block (expert 0) takes the `num_chosen` tokens with the largest logits; weight: the logit; in token order."""
    return [Edge(t, 0, logits_T[t]) for t in sorted(ranking(logits_T)[:num_chosen])]


def around_block(x_TD: Tensor, edges: Sequence[Edge], block: Callable[[Tensor], Tensor]) -> Tensor:
    """x + w f(x) where f sees the chosen tokens alone, as one shorter sequence; x elsewhere."""
    rows = list(x_TD)
    if edges:
        updates = block(torch.stack([x_TD[edge.token] for edge in edges]))
        for edge, update in zip(edges, updates):
            rows[edge.token] = rows[edge.token] + edge.weight * update
    return torch.stack(rows)


# --- Soft MoE ---------------------------------------------------------------------------------------------------------


def soft_moe_weights(
    x_TD: Tensor, phi_DN: Tensor, scale: Tensor | float, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """(dispatch, combine), both (T, N) for N slots: softmax over tokens, and softmax over slots, of the same logits.

    logits = (x / |x|) . (scale Phi / |Phi|), each norm sqrt(sum of squares + epsilon).
    """
    x_rows = [x_D / torch.sqrt((x_D**2).sum() + epsilon) for x_D in x_TD]
    slots = [scale * phi_D / torch.sqrt((phi_D**2).sum() + epsilon) for phi_D in phi_DN.T]
    logits_TN = torch.stack([torch.stack([x_D @ slot_D for slot_D in slots]) for x_D in x_rows])
    dispatch_TN = torch.stack([softmax(logits_T) for logits_T in logits_TN.T], dim=1)
    return dispatch_TN, torch.stack([softmax(logits_N) for logits_N in logits_TN])


def soft_moe(
    x_TD: Tensor, dispatch_TN: Tensor, combine_TN: Tensor, experts: Sequence[Callable[[Tensor], Tensor]]
) -> Tensor:
    """Slot s holds sum_t dispatch_ts x_t (x not normalised) and goes to expert s // (slots an expert), and back."""
    num_slots = dispatch_TN.shape[1]
    each = num_slots // len(experts)
    outputs = []
    for s in range(num_slots):
        slot_D = sum(dispatch_TN[t, s] * x_TD[t] for t in range(len(x_TD)))
        outputs.append(experts[s // each](slot_D))
    return torch.stack([sum(combine_TN[t, s] * outputs[s] for s in range(num_slots)) for t in range(len(x_TD))])
