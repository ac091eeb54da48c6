"""Mixtures from which experts can be taken, together with the columns of the router that lead to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.interop.stored import StoredModel
from sparsemix.layer import MoEConfig
from sparsemix.routers import (
    GroupLimitedRouterConfig,
    NoisyTopKRouterConfig,
    Router,
    RouterConfig,
    SwitchRouterConfig,
    TopKRouterConfig,
    TopPRouterConfig,
)
from sparsemix.surgery.edit import mixture
from sparsemix.surgery.gates import adds_to_probabilities, dropless
from sparsemix.surgery.reorder import per_expert
from sparsemix.surgery.shards import stacked_kind

ROUTERS = TopKRouterConfig | GroupLimitedRouterConfig | NoisyTopKRouterConfig | SwitchRouterConfig | TopPRouterConfig


def cuttable(model: StoredModel, verb: str) -> MoEConfig:
    """The model's mixture, from which experts can be taken: they are alike, and the router treats all of them alike.

    Raises:
        ValueError: there is none, or it is of another kind.
    """
    moe = mixture(model)
    stacked_kind(moe.experts, verb)
    rule = f"must be topk, group_limited, noisy_topk, switch or top_p for {verb}"
    check(isinstance(moe.router, ROUTERS), "router", rule, moe.router.type)
    capacity = getattr(moe.router, "capacity", None)
    remedy = "set capacity.factor_eval to null in the model's config"
    check(dropless(capacity), "router.capacity", "must drop nothing in evaluation", capacity, remedy)
    return moe


def num_groups(router: RouterConfig) -> int:
    """Groups of consecutive experts that must stay of one size."""
    return router.num_groups if isinstance(router, GroupLimitedRouterConfig) else 1


def check_keep(moe: MoEConfig, keep: int) -> None:
    """Raise `ValueError` unless so many experts can be left, the same number in each group."""
    check_count(moe, keep)
    k, groups = getattr(moe.router, "k", 1), num_groups(moe.router)
    check(keep >= k, "keep", f"must be at least the k={k} experts a token goes to", keep, "raise it")
    check(keep % groups == 0, "keep", f"must be a multiple of the {groups} groups of experts", keep, "change it")


def check_count(moe: MoEConfig, keep: int) -> None:
    """Raise `ValueError` where there are fewer experts."""
    rule = f"must be in 1..{moe.num_experts}, as many as there are"
    check(1 <= keep <= moe.num_experts, "keep", rule, keep, "change it")


def indifferent(router: RouterConfig) -> bool:
    """Whether the experts of a token and their weights are the same without an expert that it does not choose."""
    match router:
        case TopKRouterConfig() | GroupLimitedRouterConfig():
            ungrouped = isinstance(router, TopKRouterConfig) or router.keep_groups == router.num_groups
            shares = router.gate != "softmax_topk" or router.normalize
            return ungrouped and shares and not adds_to_probabilities(router)
        case NoisyTopKRouterConfig():
            return True
        case _:
            return False


def router_of(router: Router, kept: Sequence[int]) -> Router:
    """The router of these experts alone, its first being the first of `kept`."""
    given = cast(Any, router)
    with torch.device("meta"):
        other = given.config.build(given.weight_ED.shape[1], len(kept))
    state: Mapping[str, Tensor] = cast(nn.Module, router).state_dict()
    rows = list(kept)
    other.load_state_dict({n: t[rows] if per_expert(n) else t for n, t in state.items()}, assign=True)
    return other.eval()
