"""Noisy gates: top-k of 2017, V-MoE's, and the hierarchy of two levels. Noise is given: standard normal draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from references.edges import Edge, ranking
from references.gates import phi, selection_probability, softmax, softplus
from references.token_choice import top_k_softmax, weighted


class NoisyLogits(NamedTuple):
    """x W_g, x W_n and eps, all (T, E) or (T, G, E): H = x W_g + eps softplus(x W_n)."""

    clean: Tensor
    raw_scale: Tensor
    noise: Tensor


def noisy_top_k(
    clean_TE: Tensor, raw_scale_TE: Tensor, noise_TE: Tensor, k: int, floor: float = 0.0
) -> tuple[list[Edge], Tensor]:
    """Shazeer 2017, equations 3 to 5 and 8: softmax(KeepTopK(H, k)), and P(x, i), (T, E).

    `floor` is added to the softplus: 1e-2 in the released code, 0 in the paper.
    """
    scale_TE = softplus(raw_scale_TE) + floor
    noisy_TE = clean_TE + noise_TE * scale_TE
    load = [selection_probability(*row, k) for row in zip(clean_TE, noisy_TE, scale_TE)]
    return top_k_softmax(noisy_TE, k), torch.stack(load) if load else torch.zeros_like(clean_TE)


def vmoe(logits_TE: Tensor, noise_TE: Tensor, k: int, noise_scale: float = 1.0) -> tuple[list[Edge], Tensor]:
    """V-MoE: softmax of the noisy logits before the top k, never renormalised; and its load, (T, E).

    The noise has standard deviation noise_scale / E. The load's threshold is the k-th largest noisy logit of all
    experts, i itself included, unlike 2017's; its numerator is the clean logit. Losses read the clean softmax.
    """
    num_experts = logits_TE.shape[1]
    edges, load = [], []
    for t, (logits_E, noise_E) in enumerate(zip(logits_TE, noise_TE)):
        noisy_E = logits_E + noise_E * noise_scale / num_experts
        order = ranking(noisy_E)
        edges += weighted(t, softmax(noisy_E), order[:k], normalize=False)
        threshold = noisy_E[order[k - 1]]
        load.append(torch.stack([phi((z - threshold) * num_experts / noise_scale) for z in logits_E]))
    return edges, torch.stack(load) if load else torch.zeros_like(logits_TE)


class Hierarchy(NamedTuple):
    """Experts are numbered group by group; the loads are what `losses.hierarchical_load` takes."""

    edges: list[Edge]
    primary_load_TG: Tensor
    secondary_load_TGE: Tensor
    """0 where the token does not come to the group."""
    groups: list[list[int]]
    """The groups of each token, best first."""


def hierarchical(
    primary: NoisyLogits, secondary: NoisyLogits, k_primary: int, k_secondary: int, floor: float = 0.0
) -> Hierarchy:
    """Appendix B of 2017: sum_i sum_j G_p(x)_i G_i(x)_j E_ij; `secondary` holds the gates of every group, (T, G, E)."""
    upper, primary_load_TG = noisy_top_k(*primary, k_primary, floor)
    group_size = secondary.clean.shape[2]
    edges: list[Edge] = []
    groups: list[list[int]] = [[] for _ in primary.clean]
    loads = {}
    for t, g, weight, _ in upper:
        groups[t].append(g)
        row = [part[t, g][None] for part in secondary]
        lower, load_1E = noisy_top_k(*row, k_secondary, floor)
        edges += [Edge(t, g * group_size + j, weight * inner) for _, j, inner, _ in lower]
        loads[t, g] = load_1E[0]
    return Hierarchy(edges, primary_load_TG, spread(loads, secondary.clean), groups)


def spread(rows: dict[tuple[int, int], Tensor], like_TGE: Tensor) -> Tensor:
    """Rows put at their (t, g), zeros elsewhere, with their graph."""
    zero_E = torch.zeros_like(like_TGE[0, 0]) if len(like_TGE) else None
    tokens: Sequence[int] = range(len(like_TGE))
    found = [torch.stack([rows.get((t, g), zero_E) for g in range(like_TGE.shape[1])]) for t in tokens]
    return torch.stack(found) if found else torch.zeros_like(like_TGE)
