"""Every router that suits a causal language model, in the setting that the router demo and its page show it in.

All have the same width in all and, on average, the same width active a token as the demo's model, whatever k is.
Differs: the papers' mixtures are larger; where a paper's capacity would let later tokens take the places of earlier
ones, the router goes without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from sparsemix.checks import check
from sparsemix.experts import GLUExpertsConfig
from sparsemix.layer import MoEConfig
from sparsemix.models import DecoderConfig
from sparsemix.routers import NoisyTopKRouterConfig, RouterConfig, SwitchRouterConfig, TopKRouterConfig


class RouterRecipe(NamedTuple):
    """A router as a model has it."""

    source: str
    """Its paper."""
    bound: float
    """The load of its fullest expert over the mean, in the worst layer on held-out text, stays below this."""
    mixture: Callable[[MoEConfig], MoEConfig]
    """The demo's mixture -> this router's."""

    def apply(self, model: DecoderConfig) -> DecoderConfig:
        """The model with this router."""
        assert model.moe is not None
        return replace(model, moe=self.mixture(model.moe))


def recipe(name: str) -> RouterRecipe:
    """The recipe of a router.

    Raises:
        ValueError: there is none of this name.
    """
    check(name in RECIPES, "router", f"must be one of {', '.join(sorted(RECIPES))}", repr(name), "choose one")
    return RECIPES[name]


def _with(router: RouterConfig) -> Callable[[MoEConfig], MoEConfig]:
    """The mixture under another router, with experts that are together as wide for a token as they were."""

    def mixture(moe: MoEConfig) -> MoEConfig:
        assert isinstance(moe.experts, GLUExpertsConfig)
        before, now = (one.edges_per_token(moe.num_experts) for one in (moe.router, router))
        return replace(
            moe, router=router, experts=replace(moe.experts, hidden=round(moe.experts.hidden * before / now))
        )

    return mixture


RECIPES = {
    "topk": RouterRecipe("OLMoE, 2409.02060", 3.0, _with(TopKRouterConfig(k=4, normalize=False))),
    "noisy_topk": RouterRecipe("Shazeer et al. 2017, 1701.06538", 3.0, _with(NoisyTopKRouterConfig(k=4))),
    "switch": RouterRecipe("Fedus et al. 2021, 2101.03961", 3.0, _with(SwitchRouterConfig(capacity=None))),
}
"""By name."""
