"""The definitions written out from the papers, one token and one expert at a time. Imports nothing of the package.

Gradients come from autograd through these loops. Choices are lists of expert numbers a token, best first; an edge is a
pair (token, rank of the choice).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Choices = Sequence[Sequence[int]]
Edge = tuple[int, int]


# --- experts ---------------------------------------------------------------------------------------------------------


def activation(name: str, x: Tensor) -> Tensor:
    return {
        "silu": lambda: x / (1 + torch.exp(-x)),
        "gelu": lambda: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
        "gelu_tanh": lambda: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        "relu": lambda: torch.where(x > 0, x, 0.0),
        "relu2": lambda: torch.where(x > 0, x * x, 0.0),
        "sigmoid": lambda: 1 / (1 + torch.exp(-x)),
        "identity": lambda: x,
        "cubic": lambda: x * x * x,
    }[name]()


def clamped(gate_F: Tensor, up_F: Tensor, limit: float, alpha: float) -> Tensor:
    """As the experts of gpt-oss: gates are clamped from above, what they multiply on both sides."""
    gate_F = torch.where(gate_F > limit, limit, gate_F)
    up_F = torch.where(up_F > limit, limit, torch.where(up_F < -limit, -limit, up_F))
    return gate_F / (1 + torch.exp(-alpha * gate_F)) * (up_F + 1)


def glu(x_D: Tensor, gate_up_GD: Tensor, down_DF: Tensor, name: str) -> Tensor:
    hidden = down_DF.shape[1]
    gate_F, up_F = gate_up_GD[:hidden] @ x_D, gate_up_GD[hidden:] @ x_D
    return down_DF @ (activation(name, gate_F) * up_F)


def mlp(
    x_D: Tensor,
    up_FD: Tensor,
    down_DF: Tensor,
    name: str,
    up_bias_F: Tensor | float = 0.0,
    down_bias_D: Tensor | float = 0.0,
) -> Tensor:
    return down_DF @ activation(name, up_FD @ x_D + up_bias_F) + down_bias_D


# --- gates -----------------------------------------------------------------------------------------------------------


def softmax(logits: Tensor) -> Tensor:
    powers = torch.exp(logits - logits.detach().max())
    return powers / powers.sum()


def sigmoid(logits: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-logits))


def scores(gate: str, logits_E: Tensor) -> Tensor:
    """What the best k are looked for in."""
    return {"softmax_topk": softmax, "topk_softmax": lambda z: z, "sigmoid": sigmoid}[gate](logits_E)


def distribution(gate: str, logits_E: Tensor) -> Tensor:
    """What balance losses read: one probability an expert."""
    if gate == "sigmoid":
        return sigmoid(logits_E) / sigmoid(logits_E).sum()
    return softmax(logits_E)


def weights(gate: str, normalize: bool, logits_E: Tensor, chosen: Sequence[int]) -> list[Tensor]:
    """The combine weights of one token's choices."""
    if gate == "topk_softmax":
        return list(softmax(torch.stack([logits_E[e] for e in chosen])))
    taken = [scores(gate, logits_E)[e] for e in chosen]
    return [score / sum(taken) for score in taken] if normalize else taken


def is_best_first(scores_E: Tensor, chosen: Sequence[int], tolerance: float = 1e-12) -> bool:
    """Whether `chosen` are distinct, in falling order of score, and none left out is better."""
    taken = [float(scores_E[e]) for e in chosen]
    left = [float(scores_E[e]) for e in range(len(scores_E)) if e not in chosen]
    ranked = [*taken, max(left)] if left else taken
    falling = all(first >= second - tolerance for first, second in pairwise(ranked))
    return falling and len(set(chosen)) == len(chosen)


def selection_probability(clean_E: Tensor, noisy_E: Tensor, scale_E: Tensor, k: int) -> Tensor:
    """Shazeer 2017, equation 8 and 9: the noise of expert i is drawn again, that of all others stays."""
    chances = []
    for i in range(len(clean_E)):
        others = [noisy_E[j] for j in range(len(clean_E)) if j != i]
        threshold = sorted(others, key=lambda value: value.item(), reverse=True)[k - 1]
        z = (clean_E[i] - threshold) / scale_E[i]
        chances.append((1 + torch.erf(z / math.sqrt(2))) / 2)
    return torch.stack(chances)


# --- capacity --------------------------------------------------------------------------------------------------------


def served(
    choices: Choices,
    num_experts: int,
    limit: int,
    priority: str,
    weight: Callable[[int, int], float],
    valid: Sequence[bool],
) -> set[Edge]:
    """The edges that an expert with `limit` places takes, asked one by one in the order of the priority."""
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


# --- the layer -------------------------------------------------------------------------------------------------------


def moe(
    x_TD: Tensor,
    choices: Choices,
    weights: Sequence[Sequence[Tensor]],
    kept: set[Edge],
    experts: Sequence[Callable[[Tensor], Tensor]],
) -> Tensor:
    """y_t = sum over the kept edges of token t of w f_e(x_t)."""
    rows = []
    for t in range(len(x_TD)):
        row = torch.zeros_like(x_TD[t])
        for j, e in enumerate(choices[t]):
            if (t, j) in kept:
                row = row + weights[t][j] * experts[e](x_TD[t])
        rows.append(row)
    return torch.stack(rows) if rows else 0 * x_TD


# --- losses ----------------------------------------------------------------------------------------------------------


def mean_of_valid(rows: Sequence[Tensor], valid: Sequence[bool]) -> Tensor:
    kept = [row for row, is_valid in zip(rows, valid) if is_valid]
    return sum(kept, torch.zeros_like(rows[0])) / max(len(kept), 1)


def counts(choices: Choices, num_experts: int, valid: Sequence[bool]) -> list[int]:
    found = [0] * num_experts
    for chosen, is_valid in zip(choices, valid):
        for e in chosen:
            found[e] += is_valid
    return found


def switch_loss(probs_TE: Tensor, choices: Choices, valid: Sequence[bool]) -> Tensor:
    """E sum_i f_i P_i with f over all k choices."""
    num_experts = probs_TE.shape[1]
    load = counts(choices, num_experts, valid)
    mean_E = mean_of_valid(list(probs_TE), valid)
    return num_experts * sum(
        (load[i] / max(sum(load), 1) * mean_E[i] for i in range(num_experts)), mean_E.new_zeros(())
    )


def z_loss(logits_TE: Tensor, valid: Sequence[bool]) -> Tensor:
    return mean_of_valid([torch.log(torch.exp(logits_E).sum()) ** 2 for logits_E in logits_TE], valid)


def cv_squared(x_E: Tensor) -> Tensor:
    mean = x_E.sum() / len(x_E)
    return ((x_E - mean) ** 2).sum() / len(x_E) / mean**2


def importance_loss(
    choices: Choices, weights: Sequence[Sequence[Tensor]], num_experts: int, valid: Sequence[bool]
) -> Tensor:
    total = [torch.zeros((), dtype=torch.float64) for _ in range(num_experts)]
    for t, chosen in enumerate(choices):
        for e, weight in zip(chosen, weights[t]):
            if valid[t]:
                total[e] = total[e] + weight
    return cv_squared(torch.stack(total))
