"""What routers make of experts that are alike: what weights add up to, and what each of several equal columns gets."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from sparsemix.routers import (
    CapacityConfig,
    CosineRouterConfig,
    DenseRouterConfig,
    GroupLimitedRouterConfig,
    HashRouterConfig,
    HierarchicalRouterConfig,
    NoisyTopKRouterConfig,
    ReLURouterConfig,
    RouterConfig,
    SwitchRouterConfig,
    TopKRouterConfig,
    TopPRouterConfig,
    VMoERouterConfig,
)


def dropless(capacity: CapacityConfig | None) -> bool:
    """Whether no edge is dropped in evaluation."""
    return capacity is None or capacity.factor_eval is None


def sums_to_one(router: RouterConfig, num_experts: int) -> bool:
    """Whether the weights of each token add up to 1 in evaluation, whatever the logits, and no edge is dropped."""
    match router:
        case TopKRouterConfig() | CosineRouterConfig() | GroupLimitedRouterConfig():
            of_all = router.gate == "softmax_topk" and router.k == num_experts
            return dropless(router.capacity) and (router.normalize or router.gate == "topk_softmax" or of_all)
        case NoisyTopKRouterConfig() | HierarchicalRouterConfig():
            return dropless(router.capacity)
        case TopPRouterConfig():
            return router.normalize
        case DenseRouterConfig() | HashRouterConfig():
            return True
        case _:
            return False


def usual_sum(router: RouterConfig, num_experts: int) -> float | None:
    """What the weights of a token add up to where all logits are 0; None where that is not known."""
    if sums_to_one(router, num_experts):
        return 1.0
    match router:
        case TopKRouterConfig() | CosineRouterConfig() | GroupLimitedRouterConfig():
            if router.normalize or router.gate == "topk_softmax":
                return 1.0
            return router.k * (0.5 if router.gate == "sigmoid" else 1 / num_experts)
        case VMoERouterConfig() | SwitchRouterConfig():
            return router.edges_per_token(num_experts) / num_experts
        case _:
            return None


def adds_to_probabilities(router: TopKRouterConfig | GroupLimitedRouterConfig) -> bool:
    """Whether a selection bias is added to a softmax over all experts, which more or fewer of them scale; it is not."""
    bias = router.selection_bias
    return router.gate == "softmax_topk" and bias is not None and bias.form == "additive"


class Repeated(NamedTuple):
    """A router that has each column c times, and that chooses c times as many."""

    router: TopKRouterConfig | GroupLimitedRouterConfig | ReLURouterConfig
    share: float
    """Each copy's share of the weight that the column had."""
    bias_share: float
    """What selection biases are to be multiplied by, for the choice to stay as it was."""
    doubt: str | None
    """Why the choice may differ from all copies of what was chosen; None: it does not."""


def repeated(router: RouterConfig, num_experts: int, copies: int, verb: str) -> Repeated:
    """The router that goes to all c copies of what this one goes to.

    Raises:
        TypeError: it is a router for which this is not known.
    """
    if not isinstance(router, TopKRouterConfig | GroupLimitedRouterConfig | ReLURouterConfig):
        raise TypeError(
            f"router: must be topk, group_limited or relu for {verb}, got {router.type}; edit another model"
        )
    more = replace(router, k=router.k * copies)
    if isinstance(router, ReLURouterConfig):
        return Repeated(more, 1.0, 1.0, None)
    alone = router.gate == "sigmoid" and not router.normalize
    bias_share = 1 / copies if adds_to_probabilities(router) else 1.0
    return Repeated(more, 1.0 if alone else 1 / copies, bias_share, _doubt(router, num_experts))


def _doubt(router: TopKRouterConfig | GroupLimitedRouterConfig, num_experts: int) -> str | None:
    if not dropless(router.capacity):
        return "its capacity drops edges"
    if isinstance(router, TopKRouterConfig) or router.keep_groups == router.num_groups:
        return None
    if router.group_score == "two_best" and num_experts > router.num_groups:
        return "the two best of a group, which groups compete by, become copies of one"
    if router.outside == "zero" and router.selection_bias is not None:
        return "experts outside the groups kept may win by a score of 0, and are then alike"
    return None
