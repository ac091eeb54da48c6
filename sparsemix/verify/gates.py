"""The definition of the routers whose weights are a closed form of their logits, written apart from the routers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsemix.routers import CosineRouter, PooledRouter
from sparsemix.routing import Routing

EXACT = ("topk", "group_limited", "switch", "noisy_topk", "vmoe", "limoe", "null", "moepp", "dense", "cosine")
"""Tags of these routers, in evaluation: a bias, groups, null experts and all."""


class Gate(NamedTuple):
    """What a router's config says about T tokens."""

    preference_TE: Tensor
    """The k best of these are chosen."""
    k: int
    weights: Callable[[Tensor], Tensor]
    """bool (T, E), which experts are chosen -> their combine weights (T, E)."""
    probs_TE: Tensor
    """The distribution that balance losses read."""
    counted_E: Tensor
    """bool, False for experts that are chosen but not computed."""
    may_drop: bool
    """Whether edges may be left out for want of room, or because their weight is 0."""
    in_groups: bool
    """Whether groups of experts compete first: where two groups tie, rounding exchanges all of their experts."""


def gate_of(router: Any, x_TD: Tensor, previous: Routing | None) -> Gate | None:
    """The gate of a router without noise; None where it has no closed form here."""
    if isinstance(router, PooledRouter):
        return None
    config, num_experts = router.config, router.num_experts
    if config.type not in EXACT:
        return None
    logits_TE = _logits(router, x_TD, previous)
    kind = _kind(config)
    scores_TE = 1 / (1 + torch.exp(-logits_TE)) if kind == "sigmoid" else _softmax(logits_TE)
    preference_TE = _preference(router, (logits_TE if kind == "topk_softmax" else scores_TE).detach())
    counted_E = torch.arange(num_experts, device=x_TD.device) < num_experts - getattr(config, "num_null", 0)
    if config.type == "moepp":
        first = num_experts - config.num_cheap
        counted_E[first : first + config.num_zero] = False

    def weights(chosen_TE: Tensor) -> Tensor:
        if kind == "topk_softmax":
            power_TE = torch.exp(logits_TE - logits_TE.amax(-1, keepdim=True)) * (chosen_TE & counted_E)
            return power_TE / power_TE.sum(-1, keepdim=True).clamp(min=1e-300)
        if not getattr(config, "normalize", False):
            return scores_TE * chosen_TE
        kept_TE = scores_TE * (chosen_TE & counted_E)
        return kept_TE / kept_TE.sum(-1, keepdim=True).clamp(min=1e-300)

    k = num_experts if config.type == "dense" else getattr(config, "k", 1)
    may_drop = config.type == "dense" or getattr(config, "capacity", None) is not None
    probs_TE = scores_TE / scores_TE.sum(-1, keepdim=True)
    return Gate(preference_TE, k, weights, probs_TE, counted_E, may_drop, config.type == "group_limited")


def _kind(config: Any) -> str:
    """Softmax over all, over the chosen, or a sigmoid each."""
    if config.type in ("noisy_topk", "null"):
        return "topk_softmax"
    return getattr(config, "gate", "softmax_topk")


def _logits(router: Any, x_TD: Tensor, previous: Routing | None) -> Tensor:
    """x W^T + b, of cosines over a temperature, or behind a layer of ReLUs: from the router's parameters."""
    config = router.config
    if isinstance(router, CosineRouter):
        x_TA, expert_EA = x_TD @ router.project_AD.T, router.expert_EA
        x_TA = x_TA / x_TA.norm(dim=-1, keepdim=True) if config.normalize_input else x_TA
        floor = config.temperature_floor
        temperature = floor + (config.temperature - floor) * router.gain_1**2
        return x_TA @ (expert_EA / expert_EA.norm(dim=-1, keepdim=True)).T / temperature
    if config.type == "dense" and router.hidden_FD is not None:
        hidden_TF = x_TD @ router.hidden_FD.T + router.hidden_bias_F
        x_TD = hidden_TF * (hidden_TF > 0)
    logits_TE = x_TD @ router.weight_ED.T
    if router.bias_E is not None:
        logits_TE = logits_TE + router.bias_E
    if config.type == "moepp" and previous is not None:
        assert previous.logits_TE is not None
        logits_TE = logits_TE + previous.logits_TE.to(logits_TE.dtype) @ router.residual_EE.T
    return logits_TE


def _softmax(logits_TE: Tensor) -> Tensor:
    power_TE = torch.exp(logits_TE - logits_TE.amax(-1, keepdim=True))
    return power_TE / power_TE.sum(-1, keepdim=True)


def _preference(router: Any, scores_TE: Tensor) -> Tensor:
    """Scores with the selection bias; outside the best groups those of nobody's choice."""
    config, bias = router.config, getattr(router, "selection_bias", None)
    if bias is not None:
        additive = config.selection_bias.form == "additive"
        scores_TE = scores_TE + bias.bias_E if additive else scores_TE * bias.bias_E
    if config.type != "group_limited":
        return scores_TE
    size = router.num_experts // config.num_groups
    counted = 1 if config.group_score == "best" else min(2, size)
    outside = 0.0 if config.outside == "zero" else -math.inf
    rows = []
    for row in scores_TE.tolist():
        groups = [row[start : start + size] for start in range(0, len(row), size)]
        values = [sum(sorted(group, reverse=True)[:counted]) for group in groups]
        kept = sorted(range(len(groups)), key=lambda g: -values[g])[: config.keep_groups]
        rows += [value if g in kept else outside for g, group in enumerate(groups) for value in group]
    return scores_TE.new_tensor(rows).view_as(scores_TE)
