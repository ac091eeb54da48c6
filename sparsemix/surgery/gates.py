"""What the weights of a router's choices add up to: what it makes of experts that are alike depends on that alone."""

from __future__ import annotations

from sparsemix.routers import (
    CapacityConfig,
    CosineRouterConfig,
    DenseRouterConfig,
    GroupLimitedRouterConfig,
    NoisyTopKRouterConfig,
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
        case NoisyTopKRouterConfig():
            return dropless(router.capacity)
        case TopPRouterConfig():
            return router.normalize
        case DenseRouterConfig():
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
