"""Each token chooses k experts: plain, biased, limited to groups, and the logits of gpt-oss, X-MoE and MoE++."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from references.edges import Edge, ranking
from references.gates import sigmoid, softmax


def weighted(t: int, scores_E: Tensor, chosen: Sequence[int], normalize: bool, scale: float = 1.0) -> list[Edge]:
    """The edges of token t: its scores, divided by their sum over the chosen if `normalize`, times `scale`."""
    taken = [scores_E[e] for e in chosen]
    total = sum(taken) if normalize else 1.0
    return [Edge(t, e, score / total * scale) for e, score in zip(chosen, taken)]


def softmax_top_k(logits_TE: Tensor, k: int, normalize: bool) -> list[Edge]:
    """Softmax over all experts, then the best k; Qwen3 normalises the k weights, OLMoE and DeepSeekMoE do not."""
    edges = []
    for t, logits_E in enumerate(logits_TE):
        p_E = softmax(logits_E)
        edges += weighted(t, p_E, ranking(p_E)[:k], normalize)
    return edges


def top_k_softmax(logits_TE: Tensor, k: int) -> list[Edge]:
    """The best k logits, then a softmax over these (Mixtral, gpt-oss, Granite)."""
    edges = []
    for t, logits_E in enumerate(logits_TE):
        chosen = ranking(logits_E)[:k]
        gates = softmax(torch.stack([logits_E[e] for e in chosen]))
        edges += [Edge(t, e, gate) for e, gate in zip(chosen, gates)]
    return edges


def biased_top_k(
    scores_TE: Tensor, bias_E: Tensor, k: int, normalize: bool, scale: float = 1.0, multiplicative: bool = False
) -> list[Edge]:
    """Auxiliary-loss-free balancing: the best k of s + b (or s * b), weighted by s without b."""
    edges = []
    for t, scores_E in enumerate(scores_TE):
        biased_E = scores_E * bias_E if multiplicative else scores_E + bias_E
        edges += weighted(t, scores_E, ranking(biased_E)[:k], normalize, scale)
    return edges


# --- DeepSeek: experts of a few groups (or devices) only --------------------------------------------------------------


def even_groups(num_experts: int, num_groups: int) -> list[list[int]]:
    """Experts in num_groups runs of equal length."""
    size = num_experts // num_groups
    return [list(range(g * size, (g + 1) * size)) for g in range(num_groups)]


def group_limited_softmax(
    logits_TE: Tensor, groups: Sequence[Sequence[int]], top_groups: int, k: int, scale: float = 1.0
) -> list[Edge]:
    """DeepSeek-V2: the groups with the largest affinity, then the best k inside; weights not renormalised.

    Device-limited routing is the same with the experts of a device as a group.
    """
    edges = []
    for t, logits_E in enumerate(logits_TE):
        p_E = softmax(logits_E)
        plain = p_E.tolist()
        allowed = strongest([max(plain[e] for e in group) for group in groups], groups, top_groups)
        chosen = [e for e in ranking(plain) if e in allowed][:k]
        edges += weighted(t, p_E, chosen, normalize=False, scale=scale)
    return edges


def group_limited_sigmoid(
    logits_TE: Tensor,
    bias_E: Tensor,
    groups: Sequence[Sequence[int]],
    top_groups: int,
    k: int,
    scale: float = 1.0,
    masked: float = -math.inf,
) -> list[Edge]:
    """DeepSeek-V3: sigmoid scores s, c = s + b; a group counts the sum of its two best c; weights s, sum 1, * scale.

    `masked` is what an expert outside the groups counts: -inf in DeepSeek's code. Others put 0.0, which beats an
    allowed expert whose c is negative.
    """
    edges = []
    for t, logits_E in enumerate(logits_TE):
        s_E = sigmoid(logits_E)
        plain = (s_E + bias_E).tolist()
        strength = [sum(sorted((plain[e] for e in group), reverse=True)[:2]) for group in groups]
        allowed = strongest(strength, groups, top_groups)
        chosen = ranking([c if e in allowed else masked for e, c in enumerate(plain)])[:k]
        edges += weighted(t, s_E, chosen, normalize=True, scale=scale)
    return edges


def strongest(strength: Sequence[float], groups: Sequence[Sequence[int]], top_groups: int) -> set[int]:
    """The experts of the best groups."""
    return {e for g in ranking(strength)[:top_groups] for e in groups[g]}


# --- logits of their own kind -----------------------------------------------------------------------------------------


def gpt_oss(x_TD: Tensor, weight_ED: Tensor, bias_E: Tensor, k: int) -> list[Edge]:
    """Logits W x + b with an ordinary, learned bias; the best k of them, then a softmax over these."""
    return top_k_softmax(torch.stack([weight_ED @ x_D + bias_E for x_D in x_TD]), k)


def cosine_logits(
    x_TD: Tensor, project_AD: Tensor, expert_EA: Tensor, temperature: Tensor | float, normalize_input: bool = True
) -> Tensor:
    """X-MoE: the cosine of the projected token and the expert's embedding, over tau; (T, E).

    Without `normalize_input` only the expert's side has norm 1, as in the released code (where tau is 1).
    """
    rows = []
    for x_D in x_TD:
        x_A = project_AD @ x_D
        if normalize_input:
            x_A = x_A / torch.sqrt((x_A**2).sum())
        rows.append(torch.stack([x_A @ e_A / torch.sqrt((e_A**2).sum()) / temperature for e_A in expert_EA]))
    return torch.stack(rows)


def residual_logits(x_TD: Tensor, weight_ED: Tensor, carry_EE: Tensor, previous_TE: Tensor | None) -> Tensor:
    """MoE++'s gating residual: W x + W_g z of the layer before; W x in the first layer."""
    logits_TE = torch.stack([weight_ED @ x_D for x_D in x_TD])
    if previous_TE is None:
        return logits_TE
    return logits_TE + torch.stack([carry_EE @ previous_E for previous_E in previous_TE])
