"""Every router that suits a causal language model, in the setting that the router demo and its page show it in.

All have as many experts as the demo's model. What a token chooses is as wide together, whatever k is, so that fewer
choices mean more parameters in all; beside experts that cost next to nothing the others keep their width.
Differs: the papers' mixtures are larger; where a paper's capacity would let later tokens take the places of earlier
ones, the router goes without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from sparsemix.checks import check
from sparsemix.experts import (
    ConcatExpertsConfig,
    ConstantExpertsConfig,
    CopyExpertsConfig,
    GLUExpertsConfig,
    Part,
    ZeroExpertsConfig,
)
from sparsemix.models import DecoderConfig, DepthConfig
from sparsemix.routers import (
    CosineRouterConfig,
    DenseRouterConfig,
    GroupLimitedRouterConfig,
    GShardRouterConfig,
    HashRouterConfig,
    HierarchicalRouterConfig,
    MoEPPRouterConfig,
    NoisyTopKRouterConfig,
    NullRouterConfig,
    ReLURouterConfig,
    RouterConfig,
    SelectionBiasConfig,
    SwitchRouterConfig,
    TopKRouterConfig,
    TopPRouterConfig,
    VMoERouterConfig,
)

Apply = Callable[[DecoderConfig], DecoderConfig]


class RouterRecipe(NamedTuple):
    """A router as a model has it."""

    source: str
    """Its paper."""
    bound: float
    """What the load of its fullest expert over the mean, in the worst layer on held-out text, does not exceed."""
    apply: Apply
    """The demo's model -> the same with this router."""


def recipe(name: str) -> RouterRecipe:
    """The recipe of a router.

    Raises:
        ValueError: there is none of this name.
    """
    check(
        name in RECIPES,
        "router",
        f"must be one of {', '.join(sorted(RECIPES))}",
        repr(name),
        "choose one; a router that is not causal has none",
    )
    return RECIPES[name]


def _with(router: RouterConfig) -> Apply:
    """Under another router, with experts that are together as wide for a token as they were."""

    def apply(model: DecoderConfig) -> DecoderConfig:
        moe = model.moe
        assert moe is not None
        assert isinstance(moe.experts, GLUExpertsConfig)
        before, now = (one.edges_per_token(moe.num_experts) for one in (moe.router, router))
        hidden = round(moe.experts.hidden * before / now)
        return replace(model, moe=replace(moe, router=router, experts=replace(moe.experts, hidden=hidden)))

    return apply


def _beside(router: RouterConfig, *cheap: Part) -> Apply:
    """Under a router whose last experts are these, and cost next to nothing."""

    def apply(model: DecoderConfig) -> DecoderConfig:
        moe = model.moe
        assert moe is not None
        assert isinstance(moe.experts, GLUExpertsConfig)
        real = Part(num_experts=moe.num_experts - sum(part.num_experts for part in cheap), experts=moe.experts)
        return replace(model, moe=replace(moe, router=router, experts=ConcatExpertsConfig(parts=(real, *cheap))))

    return apply


def _hashed(model: DecoderConfig) -> DecoderConfig:
    return _with(HashRouterConfig(vocab_size=model.vocab_size, k=4))(model)


def _in_depth(model: DecoderConfig) -> DecoderConfig:
    """Half of the tokens go through every second block; the mixtures are as they were."""
    return replace(model, depth=DepthConfig(capacity=0.5))


FASTER = SelectionBiasConfig(rate=0.01)
"""The papers, with thousands of times the steps, have 0.001."""
RECIPES = {
    "topk": RouterRecipe("OLMoE, 2409.02060", 4.0, _with(TopKRouterConfig(k=4, normalize=False))),
    "mixtral": RouterRecipe("Mixtral, 2401.04088", 5.0, _with(TopKRouterConfig(k=4, gate="topk_softmax"))),
    "qwen3": RouterRecipe("Qwen3, 2505.09388", 5.0, _with(TopKRouterConfig(k=4))),
    "gpt_oss": RouterRecipe("gpt-oss, 2508.10925", 5.0, _with(TopKRouterConfig(k=4, gate="topk_softmax", bias=True))),
    "loss_free": RouterRecipe(
        "Wang et al. 2024, 2408.15664, weights and sequence loss as DeepSeek-V3's",
        4.0,
        _with(TopKRouterConfig(k=4, gate="sigmoid", selection_bias=FASTER)),
    ),
    "deepseek_v2": RouterRecipe(
        "DeepSeek-V2, 2405.04434",
        4.0,
        _with(
            GroupLimitedRouterConfig(
                k=4,
                num_groups=8,
                keep_groups=3,
                gate="softmax_topk",
                group_score="best",
                normalize=False,
                selection_bias=None,
            )
        ),
    ),
    "deepseek_v3": RouterRecipe(
        "DeepSeek-V3, 2412.19437",
        4.0,
        _with(GroupLimitedRouterConfig(k=4, num_groups=8, keep_groups=4, selection_bias=FASTER)),
    ),
    "noisy_topk": RouterRecipe("Shazeer et al. 2017, 1701.06538", 3.0, _with(NoisyTopKRouterConfig(k=4))),
    "hierarchical": RouterRecipe(
        "Shazeer et al. 2017, appendix B", 3.0, _with(HierarchicalRouterConfig(num_groups=8, k_groups=2, k=2))
    ),
    "switch": RouterRecipe("Fedus et al. 2021, 2101.03961", 6.0, _with(SwitchRouterConfig(capacity=None))),
    "gshard": RouterRecipe("Lepikhin et al. 2020, 2006.16668", 6.0, _with(GShardRouterConfig(capacity=None))),
    "vmoe": RouterRecipe("Riquelme et al. 2021, 2106.05974", 3.0, _with(VMoERouterConfig(k=4, capacity=None))),
    "cosine": RouterRecipe("X-MoE, 2204.09179", 4.0, _with(CosineRouterConfig(k=4))),
    "hash": RouterRecipe("Roller et al. 2021, 2106.04426", 2.0, _hashed),
    "top_p": RouterRecipe("Huang et al. 2024, 2403.07652", 3.0, _with(TopPRouterConfig(mean_k=4))),
    "relu": RouterRecipe("ReMoE, 2412.14711", 3.0, _with(ReLURouterConfig(k=4))),
    "null": RouterRecipe(
        "AdaMoE, 2406.13233",
        5.0,
        _beside(NullRouterConfig(k=6, num_null=32), Part(num_experts=32, experts=ZeroExpertsConfig())),
    ),
    "moepp": RouterRecipe(
        "MoE++, 2410.07348",
        4.0,
        _beside(
            MoEPPRouterConfig(k=4, num_zero=4, num_copy=4, num_constant=8),
            Part(num_experts=4, experts=ZeroExpertsConfig()),
            Part(num_experts=4, experts=CopyExpertsConfig()),
            Part(num_experts=8, experts=ConstantExpertsConfig()),
        ),
    ),
    "mixture_of_depths": RouterRecipe("Raposo et al. 2024, 2404.02258", 5.0, _in_depth),
    "dense": RouterRecipe("Jacobs et al. 1991", 1.0, _with(DenseRouterConfig())),
}
"""By name."""
